"""Chatting with a model and its adapters: the session that encodes and generates, and the slash commands.

May import: hub, data, model, runs, errors. Begin with :mod:`~qlora_fast.chat.session`.
"""
