"""What is written: the model, what stands beside it, and what the folder says about itself."""
