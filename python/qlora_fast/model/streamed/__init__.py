"""A frozen base whose bytes live elsewhere and are on the device only around their use.

::

    unit     the frozen tensors of a decoder layer, of the embedding or of the head, as views into one flat buffer
    source   where the bytes are: shared out over ranks (gather), or in pinned main memory (pinned); it fills a buffer
    stream   which units are on the device: fetched before use, the next one meanwhile, released behind use
    hooks    where a model uses them: forward, backward, recomputation

A buffer that is not in use has a storage of no bytes: the parameters, and what autograd saved of them, stay the same objects
and are right again as soon as the buffer is filled.
"""
