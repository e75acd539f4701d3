"""The rule of sample times, which AVSBench and the service share: one sample per second is taken at i + 15/16 s."""

# AVSBench keeps the last of sixteen frames of each second (preprocess_s4.py); the service follows (docs/contract.md).
FIRST_SAMPLE_S = 15 / 16
