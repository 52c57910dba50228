"""Torch modules, each initialised from a seed; a model knows neither data nor workers."""
