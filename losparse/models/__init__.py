"""What a transformer is made of: what its layers are for, its blocks, its neurons, its positions."""
