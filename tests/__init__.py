"""The tests, in folders by what they need; CONTRIBUTING.md says which."""
