"""Classes that answer as those of sentence-transformers do, on exported folders and without torch.

    from sentence_transformers import SentenceTransformer        from losparse_runtime import SentenceEncoder
    from sentence_transformers import CrossEncoder               from losparse_runtime import CrossEncoder

Arguments have the names, the order and the meaning that they have in sentence-transformers 6.2. One that cannot be
honoured is refused in one line, never ignored.
"""
