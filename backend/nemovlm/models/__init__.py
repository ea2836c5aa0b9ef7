"""What is known of each family of models: cards, prompts, tiles, and the module itself."""
