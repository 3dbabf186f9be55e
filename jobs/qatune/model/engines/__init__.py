"""Engines answer prompts with a loaded model: one small interface, one module each."""
