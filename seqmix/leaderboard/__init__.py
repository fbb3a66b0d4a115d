"""Records of runs, sweeps that make them, and tables that show every seed: `seqmix leaderboard`.

`schema` says what a record holds; `runs` keeps records in files; `plan`, `sweep` and `local` make them;
`statistics`, `tables` and `report` say what they mean.
"""
