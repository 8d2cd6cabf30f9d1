"""Fuzzing of everything that reads what others have written: `python -m fuzz.run NAME -max_total_time=60`.

`targets` are the harnesses, `mutators` change inputs by their structure, `corpus/NAME/` holds inputs worth keeping: whole
ones to start from (`python -m fuzz.seeds` makes them) and those that once found a defect. `tests/test_fuzz_corpus.py`
replays all of them without a fuzzer.
"""
