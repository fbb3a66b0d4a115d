"""`seqmix eval`."""

import json
from pathlib import Path
from typing import Any

from seqmix._extras import require
from seqmix._files import write_whole
from seqmix._trust import import_trusted
from seqmix.commands._messages import exits
from seqmix.commands._options import Parser, add_trust_option, positive

__all__ = ["main"]


@exits()
def main(argv: list[str]) -> int:
    """Score a language model with lm-evaluation-harness and print its table; returns the exit status."""
    text = "score a language model with lm-evaluation-harness"
    parser = Parser("seqmix eval", description=text)
    parser.add_argument("model", help="a folder of `seqmix export` or save_pretrained, a .ckpt file, or a run")
    parser.add_argument("--tasks", required=True, metavar="A,B", help="names of tasks, see lm_eval ls tasks")
    parser.add_argument("--include_path", metavar="FOLDER", help="look for tasks in the YAML files here alone")
    parser.add_argument("--num_fewshot", type=int, metavar="N", help="examples before a request; default the task's")
    parser.add_argument("--limit", type=positive, metavar="N", help="requests of each task; default all")
    parser.add_argument("--batch_size", type=positive, default=8, metavar="N", help="default 8")
    parser.add_argument("--max_length", type=positive, default=2048, metavar="N", help="tokens in a window; 2048")
    parser.add_argument("--metadata", type=json.loads, metavar="JSON", help="""as '{"max_seq_lengths": [4096]}'""")
    parser.add_argument("--device", default="cpu", help="default cpu")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write all that the harness returns as JSON")
    add_trust_option(parser)
    options = parser.parse_args(argv)
    require("transformers", extra="hf", owner="seqmix eval")
    require("lm_eval", extra="eval", owner="seqmix eval")
    from seqmix.hf.harness import evaluate

    import_trusted(options.trust)
    model, tokenizer = _open(options.model, options.trust)
    results = evaluate(
        model.to(options.device),
        tokenizer,
        [task for task in options.tasks.split(",") if task],
        include_path=options.include_path,
        max_length=options.max_length,
        batch_size=options.batch_size,
        num_fewshot=options.num_fewshot,
        limit=options.limit,
        metadata=options.metadata,
    )
    print(require("lm_eval.utils", extra="eval", owner="seqmix eval").make_table(results))
    if options.out:
        text = json.dumps(results, indent=2, default=str) + "\n"
        write_whole(options.out, lambda path: path.write_text(text))
    return 0


def _open(name: str, trust: list[str]) -> tuple[Any, Any]:
    """The model and tokenizer of a folder of transformers, or of a checkpoint."""
    from transformers import AutoTokenizer

    from seqmix.hf import SeqmixForCausalLM, byte_tokenizer, tokenizer_from
    from seqmix.tasks.tokenization import ByteTokenizer

    folder = Path(name)
    if (folder / "config.json").is_file():
        model = SeqmixForCausalLM.from_pretrained(folder)
        if (folder / "tokenizer.json").is_file():
            return model, AutoTokenizer.from_pretrained(folder)
        if model.config.vocab_size != ByteTokenizer.vocab_size:
            raise ValueError(
                f"{folder}: has no tokenizer.json, and {model.config.vocab_size} tokens are not the "
                f"{ByteTokenizer.vocab_size} of bytes"
            )
        return model, byte_tokenizer()
    from seqmix.commands.generate import load_language_model
    from seqmix.training.config.runs import checkpoint_named

    trained, own = load_language_model(checkpoint_named(name), trust=trust)
    return SeqmixForCausalLM.from_model(trained), tokenizer_from(own)
