"""Static pages of a leaderboard, readable without a network: `write_site`."""

from seqmix.leaderboard.page.site import write_site

__all__ = ["write_site"]
