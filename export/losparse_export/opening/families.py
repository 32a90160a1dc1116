"""The model types whose export is tested: those that the support matrix (docs/support.md) has exported rightly.

Others are tried: the comparison with PyTorch guards them. `tests/support` holds this list against the matrix.
"""

TESTED = (
    "albert", "apertus", "arcee", "bart", "bert", "bert-generation", "big_bird", "bigbird_pegasus", "biogpt", "bitnet",
    "bloom", "camembert", "clip_text_model", "codegen", "cohere", "cohere2", "cohere_compass_text", "convbert", "ctrl",
    "cwm", "data2vec-text", "deberta", "deberta-v2", "deepseek_v3", "diffllama", "distilbert", "doge", "electra",
    "ernie", "ernie4_5", "esm", "esmc", "eurobert", "exaone4", "falcon", "flaubert", "fnet", "gemma", "gemma2",
    "gemma3_text", "glm", "glm4", "gpt-sw3", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gpt_neox_japanese", "gptj",
    "granite", "gte", "helium", "hunyuan_v1_dense", "hyperclovax", "ibert", "imagegpt", "internlm3",
    "jina_embeddings_v3", "layoutlm", "lfm2", "lilt", "llama", "luke", "markuplm", "mbart", "megatron-bert", "minicpm3",
    "ministral", "ministral3", "mistral", "mobilebert", "modernbert", "modernbert-decoder", "mpnet", "mpt", "mra",
    "mt5", "mvp", "nemotron", "nomic_bert", "nystromformer", "olmo", "olmo2", "olmo3", "openai-gpt", "opt", "persimmon",
    "phi", "phi3", "plbart", "qwen2", "qwen3", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer",
    "seed_oss", "smollm3", "splinter", "stablelm", "starcoder2", "t5", "ultrabert", "umt5", "vaultgemma", "xglm", "xlm",
    "xlm-roberta", "xlm-roberta-xl", "xmod", "yoso",
)  # fmt: skip
