"""What a folder's model is for: texts in, labels, vectors, spans out."""
