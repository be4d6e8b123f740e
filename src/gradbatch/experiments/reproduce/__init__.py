"""What an experiment is made of: trials, the log of what came out of them, and the pages that are drawn from it."""
