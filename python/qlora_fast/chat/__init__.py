"""Chatting with a model and its adapters: the session that encodes and generates, and the slash commands.

May import: config, hub, data, model, runs, errors, atomic_io. Begin with :mod:`~qlora_fast.chat.session`; answers to a whole file
are in :mod:`~qlora_fast.chat.generate`.
"""
