# %% [markdown]
# # A language model on your own text
# Any text files do; here it is a part of Python's own reference, so that nothing is downloaded. Replace the cell by a
# folder of yours.

# %%
from pathlib import Path
from pydoc_data.topics import topics

from seqmix.__main__ import main

folder = Path("my-texts")
folder.mkdir(exist_ok=True)
for name, text in sorted(topics.items())[:40]:
    (folder / f"{name}.txt").write_text(text)

# %% [markdown]
# Documents are split into training, validation and test by a hash of their text. The measure is bits per byte: 8 for
# guessing bytes, about 2 for a small model after a minute.

# %%
options = ["--config", "lm", "--data.files", "my-texts/*.txt", "--run_dir", "text-run"]
assert main(["fit", *options, "--mixer", "mamba", "--model.d_model", "96", "--trainer.max_steps", "300"]) == 0

# %% [markdown]
# It goes on where a prompt stops. `--temperature 0` takes the likeliest byte every time.

# %%
assert (
    main(["generate", "text-run", "--prompt", "The statement ", "--temperature", "0.7", "--max-new-tokens", "120"]) == 0
)

# %% [markdown]
# In Python, with the state at hand:

# %%
import torch  # noqa: E402

from seqmix.training.loading import load_model  # noqa: E402

model = load_model(Path("text-run/checkpoints/last.ckpt"), trust=())
prompt = torch.tensor([list(b"The statement ")])
tokens = model.generate(prompt, max_new_tokens=60, temperature=0.7, top_k=40)
print(bytes(tokens[0].clamp(max=255).tolist()).decode(errors="replace"))
