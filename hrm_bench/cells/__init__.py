"""One cell, from its config to its record.

``Cell.of(config, root, overrides, library)`` is made once and handed down: by a sweep's planning, with one
``corpora.Library`` for all of its cells, and once more in a job's process. ``run_cell(cell)`` trains it, unless its
folder holds it finished, and returns its record; in a notebook, ``run_cell(config, folder)``.

Who asks cells to stop: a sweep creates ``StopSignal.of_sweep(folder)``, runs its cells inside ``stop.listening()``, and
hands ``stop`` to ``run_cell`` where it can. Where it cannot (a launcher's job), it sets ``stopping.VARIABLE`` to
``stop.file`` in the job's environment; ``run_cell`` without ``stop`` takes ``StopSignal.of_process()``.
"""
