"""What the simulated cohort is drawn to look like: frequencies of the OAI's variables by visit.

Aggregates only, from the OAI's variable guide (release of 2015). The guide ends at V08 for hips,
back and other joints and at V09 for knee items, so V10 repeats V08 and V11 repeats V09. Shares are
of the people who answered: for the tick boxes on other joints (OJPN...), of those for whom OJPNNO
is 0 or `.A`.
"""

from collections.abc import Mapping

VISITS = tuple(f"V{number:02d}" for number in range(12))
CLINIC_VISITS = ("V00", "V01", "V03", "V05", "V06", "V08", "V10")
"""Visits with MR images, radiographs, BMI and all pain items."""
KNEE_VISITS = ("V00", "V01", "V03", "V05", "V06", "V07", "V08", "V09", "V10", "V11")
"""Visits with knee pain over 12 months and 30 days."""
SCAN_VISITS = ("V00", "V01", "V02", "V03", "V04", "V05", "V06", "V08", "V10")
INTERIM_VISITS = ("V02", "V04")
"""Visits of a small subset, with one knee scanned."""

Shares = tuple[float, ...]


def _clinic(shares: Shares) -> Mapping[str, float]:
    return dict(zip(CLINIC_VISITS, (*shares, shares[-1]), strict=True))


def _knee(shares: Shares) -> Mapping[str, float]:
    return dict(zip(KNEE_VISITS, (*shares, shares[-2], shares[-1]), strict=True))


N_PEOPLE = 4796

FEMALE = 2804 / N_PEOPLE
RACES: Mapping[int, float] = {0: 82, 1: 3790, 2: 874, 3: 45}
"""People by code of P02RACE; 5 more gave none."""
RACE_UNKNOWN, HISPANIC_UNKNOWN = 5 / N_PEOPLE, 2 / N_PEOPLE
HISPANIC = 60 / 4794
COHORTS = (1390 / N_PEOPLE, 3284 / N_PEOPLE, 122 / N_PEOPLE)
"""Progression, incidence, control (codes 1, 2, 3 of V00COHORT)."""
SITES: Mapping[str, float] = {"A": 756, "B": 1000, "C": 1306, "D": 1173, "E": 561}

AGE_MEAN_SD = (61.16, 9.19)
"""V00AGE in completed years; 45 to 79."""
BMI_MEAN_SD: Mapping[str, tuple[float, float]] = {
    "V00": (28.62, 4.84),
    "V01": (28.52, 4.83),
    "V03": (28.53, 4.91),
    "V05": (28.55, 4.95),
    "V06": (28.64, 4.97),
    "V08": (28.47, 5.05),
    "V10": (28.47, 5.05),
}
BMI_ANSWERED: Mapping[str, float] = {
    "V00": 4792 / 4796,
    "V01": 4243 / 4496,
    "V03": 4026 / 4324,
    "V05": 3891 / 4270,
    "V06": 3788 / 4256,
    "V08": 3205 / 3823,
    "V10": 3205 / 3823,
}
"""Share of those who came."""

ATTENDED: Mapping[str, int] = {
    "V00": 4796,
    "V01": 4496,
    "V02": 288,
    "V03": 4324,
    "V04": 494,
    "V05": 4270,
    "V06": 4256,
    "V07": 3935,
    "V08": 3823,
    "V09": 3787,
    "V10": 3750,
    "V11": 3600,
}
"""People seen, of 4,796; V10 and V11 are not published and lie on the trend."""
VISIT_DAY_MEAN_SD: Mapping[str, tuple[float, float]] = {
    "V01": (386.35, 43.33),
    "V02": (545.70, 26.35),
    "V03": (745.38, 37.62),
    "V04": (914.31, 25.97),
    "V05": (1108.80, 37.12),
    "V06": (1470.81, 36.42),
    "V07": (1816.87, 27.98),
    "V08": (2195.96, 44.18),
    "V09": (2545.41, 33.77),
    "V10": (2920.0, 44.0),
    "V11": (3280.0, 34.0),
}
"""Days from the enrollment visit; V10 and V11 by the calendar."""

KNEE_PAIN: Mapping[str, Mapping[str, float]] = {
    stem: _knee(shares)
    for stem, shares in {
        "KPNR12": (0.7307, 0.7182, 0.6990, 0.7083, 0.7188, 0.7245, 0.7289, 0.7285),
        "KPNL12": (0.6962, 0.6706, 0.6546, 0.6696, 0.6723, 0.6817, 0.6849, 0.7012),
        "KPR12CV": (0.3591, 0.2998, 0.2966, 0.3055, 0.3135, 0.3186, 0.3173, 0.3117),
        "KPL12CV": (0.3512, 0.2947, 0.2895, 0.2920, 0.3017, 0.2925, 0.3035, 0.2999),
        "RKP30CV": (0.6192, 0.5899, 0.5933, 0.6023, 0.6106, 0.6435, 0.6356, 0.6455),
        "LKP30CV": (0.6084, 0.5700, 0.5630, 0.5786, 0.5835, 0.6058, 0.6136, 0.6209),
        "KPR30CV": (0.3085, 0.2652, 0.2705, 0.2640, 0.2775, 0.2909, 0.2905, 0.2861),
        "KPL30CV": (0.3060, 0.2636, 0.2562, 0.2665, 0.2687, 0.2650, 0.2806, 0.2699),
    }.items()
}
"""Share with the pain, by stem and visit."""


def _months(means: Shares, sds: Shares) -> Mapping[str, tuple[float, float]]:
    means, sds = (*means, means[-2], means[-1]), (*sds, sds[-2], sds[-1])
    return dict(zip(KNEE_VISITS, zip(means, sds, strict=True), strict=True))


MONTHS_MEAN_SD: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "KPNR12M": _months(
        (8.43, 9.06, 9.17, 9.36, 9.47, 9.10, 9.46, 9.29),
        (4.05, 3.99, 3.95, 3.86, 3.78, 3.94, 3.81, 3.87),
    ),
    "KPNL12M": _months(
        (8.24, 8.96, 9.08, 9.21, 9.35, 9.09, 9.43, 9.22),
        (4.10, 3.99, 4.02, 3.97, 3.81, 3.96, 3.84, 3.85),
    ),
}
"""Months with frequent pain, of those with any such month; 1 to 12."""
MONTHS_UNANSWERED = 0.007

WOMAC_MEAN_SD: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "WOMKPR": dict(
        zip(
            VISITS,
            [(2.50, 3.24), (2.16, 3.07), (4.00, 3.60), (2.18, 3.07), (3.52, 3.64), (2.15, 3.10),
             (2.15, 3.09), (2.35, 3.18), (2.21, 3.17), (2.39, 3.23), (2.21, 3.17), (2.39, 3.23)],
            strict=True,
        )
    ),
    "WOMKPL": dict(
        zip(
            VISITS,
            [(2.33, 3.41), (2.05, 3.22), (3.72, 3.75), (1.96, 3.08), (3.66, 3.90), (1.99, 3.17),
             (1.99, 3.16), (2.03, 3.17), (2.09, 3.25), (2.16, 3.23), (2.09, 3.25), (2.16, 3.23)],
            strict=True,
        )
    ),
}  # fmt: skip
WOMAC_UNANSWERED = 0.0045

OTHER_PAIN: Mapping[str, Mapping[str, float]] = {
    stem: _clinic(shares)
    for stem, shares in {
        "HPNR12": (0.4365, 0.4478, 0.4223, 0.4361, 0.4234, 0.4290),
        "HPNL12": (0.3896, 0.3838, 0.3626, 0.3730, 0.3639, 0.3679),
        "HPR12CV": (0.1737, 0.1871, 0.1772, 0.1804, 0.1770, 0.1734),
        "HPL12CV": (0.1620, 0.1620, 0.1569, 0.1536, 0.1550, 0.1570),
        "BP30": (0.5825, 0.5944, 0.6005, 0.5958, 0.5914, 0.5840),
        "OJPNNK": (0.1692, 0.1920, 0.1967, 0.1965, 0.1913, 0.1966),
        "OJPNRS": (0.1589, 0.1749, 0.1761, 0.1857, 0.1794, 0.1744),
        "OJPNLS": (0.1345, 0.1417, 0.1416, 0.1434, 0.1415, 0.1528),
        "OJPNRE": (0.0624, 0.0640, 0.0623, 0.0631, 0.0590, 0.0559),
        "OJPNLE": (0.0586, 0.0528, 0.0490, 0.0499, 0.0516, 0.0447),
        "OJPNRW": (0.0909, 0.0994, 0.0815, 0.0965, 0.0897, 0.0775),
        "OJPNLW": (0.0772, 0.0816, 0.0623, 0.0718, 0.0786, 0.0756),
        "OJPNRH": (0.2416, 0.2416, 0.2491, 0.2503, 0.2470, 0.2506),
        "OJPNLH": (0.2136, 0.2128, 0.2151, 0.2139, 0.2158, 0.2275),
        "OJPNRA": (0.0832, 0.0816, 0.0781, 0.0855, 0.0840, 0.0761),
        "OJPNLA": (0.0782, 0.0784, 0.0813, 0.0788, 0.0781, 0.0753),
        "OJPNRF": (0.0930, 0.0905, 0.0905, 0.0883, 0.0869, 0.0899),
        "OJPNLF": (0.0839, 0.0887, 0.0873, 0.0858, 0.0809, 0.0843),
    }.items()
}
OTHER_JOINTS = tuple(stem for stem in OTHER_PAIN if stem.startswith("OJPN"))
BACK_FREQUENCY: Mapping[str, Shares] = {
    "V00": (0.2341, 0.4760, 0.1832, 0.1068),
    "V01": (0.2379, 0.4936, 0.1720, 0.0964),
    "V03": (0.2291, 0.4925, 0.1748, 0.1036),
    "V05": (0.2264, 0.4860, 0.1816, 0.1061),
    "V06": (0.2361, 0.4631, 0.2011, 0.0997),
    "V08": (0.2517, 0.4836, 0.1756, 0.0890),
    "V10": (0.2517, 0.4836, 0.1756, 0.0890),
}
"""BP30OFT 0 to 3, of those with back pain."""
HIP_REFUSED: Mapping[str, float] = _clinic((0.0, 0.0258, 0.0467, 0.0574, 0.0872, 0.0180))
OTHER_REFUSED: Mapping[str, float] = _clinic((0.0, 0.0260, 0.0467, 0.0595, 0.0880, 0.0680))
"""Shortened interviews: those who came but refused the block on hips, or the one after it."""
KNEE_REFUSED, DONT_KNOW = 0.0022, 0.0018

KL_15: Mapping[str, Shares] = {
    "V00": (0.3875, 0.1770, 0.2625, 0.1390, 0.0340),
    "V01": (0.3745, 0.1727, 0.2643, 0.1463, 0.0422),
    "V03": (0.3694, 0.1721, 0.2635, 0.1485, 0.0465),
    "V05": (0.3736, 0.1699, 0.2584, 0.1491, 0.0490),
    "V06": (0.3790, 0.1764, 0.2535, 0.1396, 0.0515),
}
"""KL grades 0 to 4 of reading project 15. The guide mixes the projects at V00 and V06: what project
15 leaves of its counts there is KL_37."""
KL_37: Mapping[str, Shares] = {
    "V00": tuple(
        count - 8560 * share
        for count, share in zip((5829, 2529, 2377, 1239, 295), KL_15["V00"], strict=True)
    ),
    "V06": tuple(
        count - 7400 * share
        for count, share in zip((4640, 2129, 1966, 1060, 388), KL_15["V06"], strict=True)
    ),
    "V08": (1865, 1003, 216, 39, 2),
    "V10": (1898, 986, 259, 87, 11),
}
"""Readings by KL grade of project 37: people followed with KL 0 or 1."""
JSN_MEAN_SD: Mapping[str, Mapping[tuple[int, str], tuple[float, float]]] = {
    "XRJSM": {
        (15, "V00"): (0.52, 0.785), (15, "V01"): (0.54, 0.83), (15, "V03"): (0.56, 0.85),
        (15, "V05"): (0.56, 0.86), (15, "V06"): (0.54, 0.86), (37, "V00"): (0.123, 0.368),
        (37, "V06"): (0.138, 0.377), (37, "V08"): (0.15, 0.38), (37, "V10"): (0.18, 0.45),
    },
    "XRJSL": {
        (15, "V00"): (0.135, 0.48), (15, "V01"): (0.15, 0.54), (15, "V03"): (0.16, 0.55),
        (15, "V05"): (0.16, 0.55), (15, "V06"): (0.155, 0.56), (37, "V00"): (0.019, 0.206),
        (37, "V06"): (0.027, 0.182), (37, "V08"): (0.04, 0.22), (37, "V10"): (0.05, 0.28),
    },
}  # fmt: skip
"""Joint space narrowing by reading project and visit."""
JSW_MEAN_SD: Mapping[str, tuple[float, float]] = {
    "V00": (4.14, 1.35),
    "V01": (4.08, 1.41),
    "V03": (3.97, 1.42),
    "V05": (3.86, 1.43),
    "V06": (3.81, 1.44),
    "V08": (3.90, 1.30),
    "V10": (3.72, 1.40),
}
"""Minimum medial joint space width, mm."""

HAS_KL = 4508 / N_PEOPLE
READ_15: Mapping[str, float] = {
    "V00": 0.9894,
    "V01": 0.990,
    "V03": 0.9636,
    "V05": 0.9537,
    "V06": 0.923,
}
"""Share of those with any reading who came to the visit that project 15 read."""
MEMBERS_37 = 2080 / N_PEOPLE
READ_37: Mapping[str, float] = {"V00": 0.898, "V06": 0.754, "V08": 0.942, "V10": 0.990}
UNGRADED: Mapping[str, float] = {"V08": 0.12, "V10": 0.12}
"""Share of the other people with readings who have a row of project 37 that holds no grade."""
READ_JSW = 0.664
"""Share of people with readings whose joint space width was measured."""
WITHOUT_KL_ATTENDED: Mapping[str, float] = {
    "V01": 0.74, "V03": 0.62, "V05": 0.58, "V06": 0.56, "V07": 0.56, "V08": 0.5, "V09": 0.5,
    "V10": 0.45, "V11": 0.45,
}  # fmt: skip
"""Share of the people without any reading who came: fewer than of the others."""

REPLACED_AT_BASELINE = 0.0065
REPLACED_LATER = 203 / 4758
REPLACED_READ = 0.6
"""Share of replaced knees that are read nevertheless (as prosthetic)."""
REPLACEMENT_DAY = (16.0, 2541.0, 1453.24, 697.48)
"""First and last day, mean and SD."""

MR_ANY: Mapping[str, float] = {
    "V00": 4791 / 4796,
    "V01": 4176 / 4496,
    "V02": 287 / 288,
    "V03": 3921 / 4324,
    "V04": 483 / 494,
    "V05": 3744 / 4270,
    "V06": 3871 / 4256,
    "V08": 3328 / 3823,
    "V10": 3213 / 3750,
}
"""Share of those who came who had an MR examination."""
ONE_KNEE_ONLY: Mapping[str, float] = {"V02": 1.0, "V04": 1.0, "V05": 0.405}
"""Share of MR examinations with one knee."""
