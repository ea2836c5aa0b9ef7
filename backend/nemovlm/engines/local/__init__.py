"""Engines that compute on this machine."""
