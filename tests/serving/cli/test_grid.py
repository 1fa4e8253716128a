import numpy as np

from serving.cli.grid import GAP, INK, MARGIN, MAX_COLUMNS, PAPER, SIDE, draw_grid, rows_by_label


def flat(*levels, side=8):
    return np.stack([np.full((side, side, 3), level, np.uint8) for level in levels])


def layout(rows):
    return [(label, len(pictures)) for label, pictures in rows]


def test_each_label_is_a_row_and_long_rows_wrap_unlabelled():
    labels = ["a"] * 3 + ["b"] * (MAX_COLUMNS + 2)
    rows = rows_by_label(flat(*range(len(labels))), labels)
    assert layout(rows) == [("a", 3), ("b", MAX_COLUMNS), ("", 2)]
    assert [picture[0, 0, 0] for picture in rows[2][1]] == [19, 20]


def test_images_of_a_single_label_form_a_square():
    assert layout(rows_by_label(flat(*range(16)), ["a"] * 16)) == [("a", 4), ("", 4), ("", 4), ("", 4)]


def test_small_images_are_enlarged_by_a_whole_factor():
    checked = np.indices((8, 8)).sum(0) % 2 * 255
    picture = np.repeat(checked[..., None], 3, -1).astype(np.uint8)
    sheet = np.asarray(draw_grid([("", [picture, 255 - picture])]))
    assert sheet.shape == (2 * MARGIN + SIDE, 2 * MARGIN + 2 * SIDE + GAP, 3)
    first = sheet[MARGIN : MARGIN + SIDE, MARGIN : MARGIN + SIDE]
    np.testing.assert_array_equal(first[::8, ::8], picture)
    np.testing.assert_array_equal(first[7::8, 7::8], picture)
    second = sheet[MARGIN : MARGIN + SIDE, MARGIN + SIDE + GAP :][:, :SIDE]
    np.testing.assert_array_equal(second[::8, ::8], 255 - picture)


def test_large_images_keep_their_size():
    assert draw_grid([("", flat(0, side=100))]).size == (2 * MARGIN + 100, 2 * MARGIN + 100)


def test_labels_and_headers_do_not_cover_images_and_long_labels_are_cut():
    plain = draw_grid([("", flat(128, 128))])
    labelled = draw_grid([("ünïcode " * 50, flat(128, 128))], headers=("original", "reconstruction"))
    pixels = np.asarray(labelled)
    assert plain.width < labelled.width < plain.width + 500
    assert np.all(pixels == INK, axis=-1).any()
    # Both images are complete: nothing is drawn over them.
    assert np.all(pixels == 128, axis=-1).sum() >= 2 * SIDE * SIDE
    assert tuple(pixels[0, 0]) == PAPER
