"""What CI asserts of a model in production: copy to tests/test_model.py, and put your own paths and numbers in."""


def test_it_is_the_model(assert_parity):
    assert_parity("onnx", "golden.npz")


def test_it_is_right(assert_accuracy):
    assert_accuracy("onnx", "test.csv", at_least=0.87)


def test_it_is_fast(assert_latency):
    assert_latency("onnx", against="baseline", at_most_ratio=0.5, batch=1, length=16)
