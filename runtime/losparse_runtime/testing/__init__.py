"""Assertions about exported folders, for pytest and for any other runner; none needs torch.

    def test_model(assert_parity, assert_accuracy, assert_latency):      # fixtures of the pytest plugin
        assert_parity("onnx", "golden.npz")
        assert_accuracy("onnx", "test.csv", at_least=0.87)
        assert_latency("onnx", against="dense-onnx", at_most_ratio=0.5)

assertions    the three of them
rows          labelled texts, read without pandas
plugin        the fixtures
"""

from .assertions import Accuracy, assert_accuracy, assert_latency, assert_parity, measure_accuracy

__all__ = ["Accuracy", "assert_accuracy", "assert_latency", "assert_parity", "measure_accuracy"]
