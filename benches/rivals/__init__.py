"""What other tools do to make the same file ready to train, each in a process of its own. They import nothing of ours."""
