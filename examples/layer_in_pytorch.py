# %% [markdown]
# # A layer in a PyTorch model
# A mixer is an `nn.Module` from (batch, time, width) to (batch, time, width), and a state. Here two of them stand in
# a model of our own that says at each position whether the number of ones so far is odd.

# %%
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from seqmix import create_mixer

torch.manual_seed(0)


class Model(nn.Module):
    """Embedding, mixers with norms and residuals, a linear read-out."""

    def __init__(self, width: int = 32, mixers: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(2, width)
        self.norms = nn.ModuleList(nn.RMSNorm(width) for _ in range(mixers))
        self.mixers = nn.ModuleList(create_mixer("bd-lru", width, block_size=2) for _ in range(mixers))
        self.head = nn.Linear(width, 2)

    def forward(self, bits, states=None):
        x, new = self.embedding(bits), []
        for norm, mixer, state in zip(self.norms, self.mixers, states or [None] * len(self.mixers), strict=True):
            y, after = mixer(norm(x), state)
            x, new = x + y, [*new, after]
        return self.head(x), new


# %% [markdown]
# Training is any training loop. Words grow with the steps: short ones teach the rule.

# %%
model = Model()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
for step in range(400):
    bits = torch.randint(2, (64, 2 + step // 20))
    logits, _ = model(bits)
    loss = cross_entropy(logits.flatten(0, 1), (bits.cumsum(1) % 2).flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 100 == 99:
        print(f"step {step + 1}: loss {loss:.4f}, words of {bits.shape[1]}")

# %% [markdown]
# Longer words than it has seen; the same word in two chunks, whose state goes in where it came out; and token by
# token.

# %%
bits = torch.randint(2, (64, 100))
with torch.no_grad():
    whole, _ = model(bits)
    first, states = model(bits[:, :60])
    second, _ = model(bits[:, 60:], states)
    single, states = [], None
    for bit in bits.unbind(1):
        logits, states = model(bit[:, None], states)
        single.append(logits)
torch.testing.assert_close(torch.cat([first, second], 1), whole, rtol=1e-3, atol=1e-3)
torch.testing.assert_close(torch.cat(single, 1), whole, rtol=1e-3, atol=1e-3)
right = (whole.argmax(-1) == bits.cumsum(1) % 2).float().mean()
print(f"right at {right:.1%} of the positions of words of 100 bits")
assert loss < 0.1
