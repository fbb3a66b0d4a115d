"""`seqmix bench`: kernels, layers and decoding, timed beside what else computes the same numbers.

`cases` says what is run, `contestants` who runs it, `gate` whether the numbers are right (no time without that),
`timing` how long it takes, `goals` what it should take; `kernels`, `layers` and `decode` put these together,
`record` and `report` keep the results.
"""
