"""The keeper: the parent of one model's process. It writes the model's log, sees how it ends, and outlives the hub.

It stands alone: the standard library only, started as ``python -I -S``. What is started so is a zygote, which forks a
keeper for each connection that the hub sends it: that costs a twentieth of the memory of an interpreter of its own, and a
tenth of the time. A keeper and a hub talk in lines of JSON, over that connection and, when the hub was replaced, over the
keeper's socket. `mlxhub_core.keepers` is the other end.

On the disk three files tell of each run: ``.lock`` is locked as long as the keeper lives; ``.sock`` is its socket;
``.json`` is what is known of the run, with its end when it has ended.
"""
