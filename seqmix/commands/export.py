"""`seqmix export`."""

from seqmix._extras import require
from seqmix._trust import import_trusted
from seqmix.commands._messages import exits
from seqmix.commands._options import Parser, add_trust_option
from seqmix.training.config.runs import checkpoint_named

__all__ = ["main"]


@exits()
def main(argv: list[str]) -> int:
    """Write a trained language model and its tokenizer as a folder of transformers; returns the exit status."""
    text = "write a language model as a folder that AutoModelForCausalLM and AutoTokenizer read"
    parser = Parser("seqmix export", description=text)
    parser.add_argument("checkpoint", help="a .ckpt file, the folder of a run, or the config of runs under runs/")
    parser.add_argument("folder", help="where it goes; made if needed")
    add_trust_option(parser)
    options = parser.parse_args(argv)
    path = checkpoint_named(options.checkpoint)
    require("transformers", extra="hf", owner="seqmix export")
    from seqmix.commands.generate import load_language_model
    from seqmix.hf import SeqmixForCausalLM, tokenizer_from

    import_trusted(options.trust)
    model, own = load_language_model(path, trust=options.trust)
    tokenizer = tokenizer_from(own)
    ids = {name: getattr(tokenizer, name) for name in ("eos_token_id", "pad_token_id")}
    SeqmixForCausalLM.from_model(model, **ids).save_pretrained(options.folder)
    tokenizer.save_pretrained(options.folder)
    print(f"wrote {options.folder}, the model of {path}")
    return 0
