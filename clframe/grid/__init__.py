"""Many runs: which cells of a grid are missing, one process for each, their outcomes collected."""
