"""What becomes of every factored layer: chosen by estimate or by timing, read and edited as a file, carried out."""
