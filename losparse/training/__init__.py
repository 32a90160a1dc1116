"""Fine-tuning with the Hugging Face Trainer: recipe, loop, distillation, adapters, resuming.

recipe        what to do, as data
fine_tune     the loop
trainer       the Trainer of a recipe
opening       models and tokenizers for training
problems      whether the head answers what is asked
batches       rows that are looked at before training
distill       what a student learns from a teacher
adapters      adapters on the factors, merged at the end
divergence    a training that diverged, stopped
resume        from which checkpoint a training goes on
"""
