"""Every model type of transformers, tiny and random: does normscope see all of its norm layers, and right?"""
