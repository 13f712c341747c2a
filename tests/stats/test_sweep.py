"""The matrix macros against numpy."""

import duckdb
import numpy as np
import pytest

import sql


@pytest.fixture(scope="module")
def connection():
    with duckdb.connect() as opened:
        opened.execute(sql.load("macros/sweep").text)
        yield opened


def value(connection, expression, *matrices):
    return connection.execute(
        f"SELECT {expression}", [matrix.tolist() for matrix in matrices]
    ).fetchone()[0]


@pytest.mark.parametrize("n", [1, 2, 7, 21])
def test_inverse_and_determinant(connection, n):
    x = np.random.default_rng(n).normal(size=(3 * n, n))
    a = x.T @ x
    inverse = np.array(value(connection, "matrix_inverse($1::DOUBLE[][])", a))
    np.testing.assert_allclose(inverse, np.linalg.inv(a), rtol=1e-10, atol=1e-13)
    log_determinant = value(connection, "matrix_log_determinant($1::DOUBLE[][])", a)
    assert log_determinant == pytest.approx(np.linalg.slogdet(a)[1], rel=1e-12)


def test_sweeping_a_bordered_matrix_solves(connection):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 4))
    a, g = x.T @ x, rng.normal(size=4)
    bordered = np.block([[a, g[:, None]], [g[None], np.zeros((1, 1))]])
    swept = np.array(value(connection, "matrix_sweep($1::DOUBLE[][], 4)", bordered))
    solved = np.linalg.solve(a, g)
    np.testing.assert_allclose(swept[:4, 4], solved, rtol=1e-12)
    assert swept[4, 4] == pytest.approx(-g @ solved, rel=1e-12)


def test_products(connection):
    rng = np.random.default_rng(1)
    a, b, x = rng.normal(size=(3, 4)), rng.normal(size=(4, 2)), rng.normal(size=4)
    product = value(connection, "matrix_product($1::DOUBLE[][], $2::DOUBLE[][])", a, b)
    np.testing.assert_allclose(product, a @ b, rtol=1e-14)
    np.testing.assert_allclose(
        value(connection, "matrix_vector($1::DOUBLE[][], $2::DOUBLE[])", a, x), a @ x, rtol=1e-14
    )
    np.testing.assert_array_equal(value(connection, "matrix_transpose($1::DOUBLE[][])", a), a.T)
    np.testing.assert_array_equal(value(connection, "matrix_column($1::DOUBLE[][], 2)", a), a[:, 1])


@pytest.mark.parametrize("n", [1, 2, 6, 20])
def test_whitening(connection, n):
    x = np.random.default_rng(n).normal(size=(5 * n + 10, n))
    r = np.corrcoef(x.T).reshape(n, n)
    rows = np.array(value(connection, "matrix_whitening($1::DOUBLE[][])", r))
    np.testing.assert_allclose(rows @ r @ rows.T, np.eye(n), atol=1e-13)
    assert np.all(np.triu(rows, 1) == 0)
    np.testing.assert_allclose((rows**2).sum(0), np.diag(np.linalg.inv(r)), rtol=1e-10)


def test_literals_need_no_cast(connection):
    assert value(connection, "matrix_inverse([[4, 0], [0, 2]])") == [[0.25, 0.0], [0.0, 0.5]]
    assert value(connection, "matrix_product([[1.5, 2]], [[2], [4]])") == [[11.0]]
