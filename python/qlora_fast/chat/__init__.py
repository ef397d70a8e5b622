"""Talking to a model and its adapters: the session that encodes and generates, and the commands of the prompt.

May import: config, hub, data, model, runs, errors. Begin with :mod:`~qlora_fast.chat.session`.
"""
