"""Engines that send items to servers."""
