"""What is run: the experiments of four papers, the speed of their methods, and the comparison of rules."""
