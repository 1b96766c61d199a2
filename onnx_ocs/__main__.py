"""`python -m onnx_ocs`."""

from onnx_ocs.cli import main

if __name__ == "__main__":
    main()
