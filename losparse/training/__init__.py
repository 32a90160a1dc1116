"""Fine-tuning with the Hugging Face Trainer: recipe, loop, distillation, adapters, resuming."""
