"""Speech as data: log-mel features, WAV files, the two sets, windows with classes, and who owns which."""

import math
import os
import shutil
import wave
from pathlib import Path

import numpy as np
import pytest
from command import decentral

from decentral.errors import UserError
from decentral.problems.data import load_speech, partial
from decentral.problems.data.log_mel import frame_samples, log_mel
from decentral.problems.data.segments import deal_segments, segments_of
from decentral.problems.data.speech import Speech
from decentral.problems.data.wav_files import read_wav


def written(path, samples, rate=8_000, channels=1, width=2):
    """A WAV file of so many samples of a tone."""
    tone = (8_000 * np.sin(0.3 * np.arange(samples * channels))).astype("<i2" if width == 2 else "<i4")
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, width, rate, 0, "NONE", ""))
        file.writeframes(tone.tobytes())
    return path


def by_hand(sound, rate, bands):
    """Log-mel features by sums over samples, frequencies and corners of triangles."""
    size, hop = rate // 40, rate // 100
    points = 1 << math.ceil(math.log2(size))
    hann = [0.5 - 0.5 * math.cos(2 * math.pi * i / size) for i in range(size)]
    top = 2595 * math.log10(1 + rate / 1400)
    corner = [700 * (10 ** (top * k / (bands + 1) / 2595) - 1) for k in range(bands + 2)]
    found = []
    for first in range(0, len(sound) - size + 1, hop):
        x = [sound[first + i] * hann[i] for i in range(size)]
        row = [0.0] * bands
        for k in range(points // 2 + 1):
            f = k * rate / points
            z = sum(v * np.exp(-2j * math.pi * k * i / points) for i, v in enumerate(x))
            for b in range(bands):
                low, middle, high = corner[b : b + 3]
                if low < f <= middle:
                    row[b] += (f - low) / (middle - low) * abs(z) ** 2
                elif middle < f < high:
                    row[b] += (high - f) / (high - middle) * abs(z) ** 2
        found.append([math.log(v / sum(w * w for w in hann) + 1e-10) for v in row])
    return np.array(found)


def test_log_mel_features_are_those_of_the_definition():
    sound = np.random.default_rng(0).standard_normal(frame_samples(2, 1_000))
    assert len(sound) == 35
    np.testing.assert_allclose(log_mel(sound, 1_000, 5), by_hand(sound, 1_000, 5), atol=1e-10)
    tone = np.sin(2 * math.pi * 1_000 / 8_000 * np.arange(400))  # 1 kHz is 1,000 mel
    loudest = log_mel(tone, 8_000, 20).argmax(1)
    assert set(loudest) == {round(1_000 / (2595 * math.log10(1 + 4_000 / 700) / 21)) - 1}


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda p: written(p, 4_000, rate=16_000), "a rate of 16000 Hz, expected 8000 Hz"),
        (lambda p: written(p, 4_000, channels=2), "channels: 2, expected 1"),
        (lambda p: written(p, 4_000, width=4), "a width of 4 bytes, expected 2 bytes"),
        (lambda p: written(p, 50), "it has 50 samples"),
        (lambda p: written(p, 90_000), "it has 90000 samples"),
        (lambda p: p.write_bytes(written(p, 4_000).read_bytes()[:5_000]), "says 4000 samples, it has 2478"),
        (lambda p: p.write_bytes(written(p, 4_000).read_bytes()[:30]), "ends too early"),
        (lambda p: p.write_bytes(b"no sound at all"), "expected a WAV file"),
    ],
)
def test_wav_files_of_another_kind_are_refused_by_name(tmp_path, make, reason):
    path = tmp_path / "7_theo_3.wav"
    make(path)
    with pytest.raises(UserError) as refused:
        read_wav(path, 8_000, 0.025, 10.0)
    said = str(refused.value).replace(str(path), "7_theo_3.wav")
    assert said.startswith("7_theo_3.wav: ")
    assert reason in said
    assert len(said) < 250
    assert "\n" not in said


def test_samples_are_those_of_the_file(tmp_path):
    found = read_wav(written(tmp_path / "x.wav", 1_000), 8_000, 0.025, 10.0)
    assert np.array_equal(found, np.trunc(8_000 * np.sin(0.3 * np.arange(1_000))) / 32768)


FOLDER = "fsdd/recordings"


def digits_at(root, names=()):
    """A data root with a few recordings, and files of these names besides."""
    folder = root / FOLDER
    folder.mkdir(parents=True)
    for digit in (0, 7):
        for speaker in ("george", "theo"):
            for number in (0, 4, 5, 9):
                written(folder / f"{digit}_{speaker}_{number}.wav", 2_000 + 400 * digit + 10 * number)
    for name in names:
        written(folder / name, 2_000)
    return root


def test_digits_are_dealt_by_their_numbers_and_lie_in_their_windows(tmp_path):
    speech = load_speech("fsdd", str(digits_at(tmp_path)))
    assert speech.frames.shape == (16, 80, 20)
    assert speech.frames.dtype == np.float32
    assert speech.test.tolist() == [True, True, False, False] * 4
    assert speech.words.tolist() == [0] * 8 + [7] * 8
    assert speech.speakers.tolist() == [0] * 4 + [1] * 4 + [0] * 4 + [1] * 4
    frames = (speech.progress >= 0).sum(1)
    assert set(frames[:8]) <= {24, 25, 26, 27}  # 2,000 to 2,090 samples, 80 a frame
    assert set(frames[8:]) <= {59, 60, 61, 62}  # the half frames at a window's ends have no middle
    inside = speech.progress[0][speech.progress[0] >= 0]
    np.testing.assert_allclose(np.diff(inside), 80 / 2_000, atol=1e-6)
    assert inside[0] < 80 / 2_000
    training = speech.frames[~speech.test].reshape(-1, 20)
    np.testing.assert_allclose(training.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(training.std(0), 1, atol=1e-4)
    for f, p in zip(speech.frames, speech.progress, strict=True):
        loud, quiet = np.median(f[p >= 0], 0), np.median(f[p < 0], 0)
        assert (loud - quiet).max() > 1  # in the band of the tone
    assert partial("fsdd", str(tmp_path)).startswith("fsdd is not whole here: 8 of 2,700 and 8 of 300")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("7-theo-3.wav", "'7-theo-3.wav' is not called DIGIT_SPEAKER_NUMBER.wav"),
        ("ten_theo_3.wav", "not called"),
    ],
)
def test_files_with_other_names_are_refused(tmp_path, name, reason):
    with pytest.raises(UserError, match=reason):
        load_speech("fsdd", str(digits_at(tmp_path, [name])))


def test_a_run_on_a_wrong_file_ends_before_it_begins(home):
    root = digits_at(home / "data")
    written(root / FOLDER / "7_theo_9.wav", 4_000, rate=16_000)
    done = decentral(
        "run", _experiment(home), "--set", "problem.speech=fsdd", "--set", f"problem.data_root={root}",
        "--set", "problem.keyword=7", "--out", home / "out",
    )  # fmt: skip
    assert done.code == 2
    assert "7_theo_9.wav: a rate of 16000 Hz" in done.err
    assert not (home / "out").exists()


def _experiment(home):
    (home / "x.toml").write_text(
        '[problem]\nname = "keyword"\n[topology]\nname = "ring"\nworkers = 2\n[algorithm]\nname = "dsgd"\n'
        "[train]\nlr = 0.1\nrounds = 2\nbatch_size = 4\n"
    )
    return home / "x.toml"


@pytest.mark.data
def test_the_published_recordings_can_all_be_read():
    root = os.environ.get("DECENTRAL_DATA")
    if not root or not Path(root, "fsdd").is_dir():
        pytest.skip("DECENTRAL_DATA has no fsdd")
    speech = load_speech("fsdd", root)
    assert speech.test.sum() == 300
    assert len(np.unique(speech.speakers)) == 6
    assert set(speech.words) == set(range(10))
    assert np.isfinite(speech.frames).all()


# ------------------------------------------------------------------------------------------------- made-up words


def test_made_up_words_have_their_phonemes_in_order():
    speech = load_speech()
    assert speech.frames.shape == (4_000, 48, 20)
    assert (~speech.test).sum() == 1_000
    assert 0.17 < (speech.words == 0).mean() < 0.23
    for word, progress in zip(speech.words[:50], speech.progress[:50], strict=True):
        states = (progress[progress >= 0] * 12).astype(int)
        assert sorted(set(states)) == list(range(12)), word
        assert (np.diff(states) >= 0).all()
    means = {
        (speech.vocabulary[w][k // 3], k % 3): speech.frames[speech.words == w][
            (speech.progress[speech.words == w] * 12).astype(int) == k
        ].mean(0)
        for w in (0, 4) for k in range(1, 12)
    }  # fmt: skip
    again = {
        (speech.vocabulary[0][k // 3], k % 3): speech.frames[speech.words == 0][
            (speech.progress[speech.words == 0] * 12).astype(int) == k
        ].mean(0)
        for k in range(1, 12)
    }
    same = max(float(np.abs(means[key] - again[key]).max()) for key in again)
    others = min(float(np.abs(means["a", 1] - means[key]).max()) for key in means if key[0] != "a")
    assert same < 0.5 < others  # "abcd" backwards has the same phonemes


# -------------------------------------------------------------------------------------------------- windows


def small():
    """Four windows of six frames: words 1, 0, 1, 0 of speakers 5, 3, 3, 5; the last two are for testing."""
    progress = np.array(
        [
            [-1, 0.1, 0.4, 0.6, 0.9, -1],
            [0.2, 0.8, -1, -1, -1, -1],
            [-1, -1, 0.5, 0.99, 1.0, -1],
            [-1, 0.5, -1, -1, -1, -1],
        ]
    )
    frames = np.arange(4 * 6 * 2, dtype=np.float32).reshape(4, 6, 2)
    return Speech(
        "small", frames, progress, np.array([1, 0, 1, 0]), np.array([5, 3, 3, 5]),
        np.array([False, False, True, True]), ("no", "yes"), "by hand",
    )  # fmt: skip


def test_frames_have_the_keyword_s_states_silence_or_background():
    found = segments_of(small(), 1, 2)
    assert found.classes == 4
    assert found.train_y.tolist() == [[2, 0, 0, 1, 1, 2], [3, 3, 2, 2, 2, 2]]
    assert found.test_y.tolist() == [[2, 2, 1, 1, 1, 2], [2, 3, 2, 2, 2, 2]]
    assert found.train_x.tolist() == small().frames[:2].tolist()


@pytest.mark.parametrize(
    ("keyword", "states", "reason"),
    [
        (2, 2, "choose 0 to 1"),
        (-1, 2, "no word of small"),
        (1, 6, "6 states, and the keyword has 4 frames at most"),
    ],
)
def test_keywords_that_cannot_be_are_refused(keyword, states, reason):
    with pytest.raises(UserError, match=reason):
        segments_of(small(), keyword, states)


def test_a_keyword_must_be_in_both_parts():
    speech = small()
    speech.test[:] = [False, True, False, True]
    with pytest.raises(UserError, match=r"no keyword 1 \(yes\), or nothing else, in its training part"):
        segments_of(speech, 1, 2)


def test_a_worker_holds_its_speakers():
    speech = load_speech()
    parts = deal_segments(speech, 3, "speaker", 0)
    owners = speech.speakers[~speech.test]
    assert [sorted(set(owners[part])) for part in parts] == [[0, 3, 6], [1, 4, 7], [2, 5]]
    assert sorted(np.concatenate(parts)) == list(range(1_000))
    dealt = deal_segments(speech, 3, "iid", 0)
    assert sorted(np.concatenate(dealt)) == list(range(1_000))
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1
    with pytest.raises(UserError, match="8 speakers for 9 workers; use 8 workers at most"):
        deal_segments(speech, 9, "speaker", 0)


def test_a_folder_without_the_set_is_told_of(tmp_path):
    with pytest.raises(UserError, match=r"no file 0_george_0\.wav"):
        load_speech("fsdd", str(tmp_path))
    digits_at(tmp_path)
    shutil.rmtree(tmp_path / FOLDER)
    (tmp_path / FOLDER).mkdir()
    written(tmp_path / FOLDER / "0_george_0.wav", 2_000)
    with pytest.raises(UserError, match="no recording is in the training part"):
        load_speech("fsdd", str(tmp_path))
