"""The brain features of the simulator and the figures they are calibrated by.

Sources of the figures, as collected for the design:
- reliabilities and between-subject CVs: a public test-retest table (20 people scanned twice, FreeSurfer): thickness ICC
  .89 and CV 4.7 %, area ICC .99 and CV 14 %, single volumes as below; Liem 2015 and others agree within a few points;
- ventricles: CV .49 to .66, log-normal; third ventricle .42 (1,025 people, FreeSurfer aseg);
- annual change of the cortex: area -.19 %, thickness -.35 %, volume -.51 % (Storsve 2014), hence volume = area x
  thickness here; strong in entorhinal and orbitofrontal cortex, hardly any in primary visual and lateral prefrontal
  cortex, putamen and pons (Raz 2010);
- hippocampus -.85 %/y overall (Fraser 2015; the figure below is without the people who convert), 1.4 in controls and
  4.7 in Alzheimer's disease (Barnes 2009), so that a conversion costs about 3 % a year;
- ventricles +3 %/y; cerebellum -.6 %/y, SD .58 with error (Raz 2005); whole brain -.5 %/y in old age (Hedman 2012).
Sizes in mm, mm2 and mm3 are rounded typical adult values and not from one table.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import NamedTuple


class Latent(NamedTuple):
    """A true quantity of one place: its log is what the simulator moves.

    pair : name that left and right share.   kind : volume, ventricle, thickness or area.   size : median, in its unit.
    cv : between-subject SD over mean.   yearly, yearly_sd : mean change at age 62 without conversion and its SD between
    people, share a year.   axis : loss per unit of a conversion in SD of the log level; negative where it enlarges.
    """

    name: str
    pair: str
    kind: str
    size: float
    cv: float
    yearly: float
    yearly_sd: float
    axis: float


class Feature(NamedTuple):
    """What is measured: the product of its parts, with a modality and a test-retest reliability.

    jitter : SD of the logit of the reliability around `reliability`, between features.
    """

    name: str
    modality: str
    parts: tuple[Latent, ...]
    reliability: float
    jitter: float


# name, sided, mm3, CV, ICC, %/y, SD of %/y, axis. Most telling first: a small cohort takes the head of the table.
_VOLUMES = (
    ("Hippocampus", True, 4000, 0.105, 0.965, -0.58, 0.55, 1.3),
    ("Lateral-Ventricle", True, 12000, 0.58, 0.997, 2.3, 2.0, -0.5),
    ("Amygdala", True, 1600, 0.12, 0.958, -0.60, 0.60, 1.2),
    ("Thalamus", True, 7200, 0.11, 0.985, -0.45, 0.35, 0.3),
    ("Accumbens", True, 480, 0.19, 0.939, -0.60, 0.70, 0.4),
    ("Caudate", True, 3500, 0.125, 0.978, -0.35, 0.45, 0.2),
    ("Putamen", True, 4700, 0.11, 0.983, -0.20, 0.35, 0.3),
    ("Pallidum", True, 1900, 0.12, 0.968, -0.20, 0.40, 0.1),
    ("3rd-Ventricle", False, 1300, 0.42, 0.98, 2.0, 1.6, -0.4),
    ("Cortex", True, 230000, 0.11, 0.989, -0.36, 0.35, 0.6),
    ("Cerebral-White-Matter", True, 225000, 0.115, 0.993, -0.25, 0.35, 0.3),
    ("Cerebellum-Cortex", True, 52000, 0.11, 0.985, -0.52, 0.40, 0.1),
    ("Inf-Lat-Vent", True, 450, 0.60, 0.97, 3.0, 2.5, -0.8),
    ("EstimatedTotalIntraCranial", False, 1550000, 0.116, 0.98, 0.0, 0.02, 0.0),
    ("Brain-Stem", False, 21000, 0.115, 0.99, -0.10, 0.25, 0.05),
    ("VentralDC", True, 4000, 0.11, 0.97, -0.25, 0.35, 0.1),
    ("Cerebellum-White-Matter", True, 14500, 0.14, 0.97, -0.30, 0.45, 0.05),
    ("CSF", False, 1100, 0.25, 0.96, 0.9, 1.0, -0.2),
    ("4th-Ventricle", False, 1900, 0.28, 0.97, 0.6, 0.8, -0.1),
    ("CC_Posterior", False, 950, 0.15, 0.97, -0.25, 0.45, 0.2),
    ("CC_Mid_Posterior", False, 480, 0.18, 0.96, -0.30, 0.50, 0.2),
    ("CC_Central", False, 480, 0.18, 0.96, -0.35, 0.50, 0.2),
    ("CC_Mid_Anterior", False, 490, 0.18, 0.96, -0.40, 0.50, 0.2),
    ("CC_Anterior", False, 880, 0.15, 0.97, -0.35, 0.45, 0.2),
)
_VENTRICLES = ("Lateral-Ventricle", "3rd-Ventricle", "Inf-Lat-Vent", "CSF", "4th-Ventricle")

# region, mm, mm2, pace against the mean of the cortex, axis of thickness.
_REGIONS = (
    ("entorhinal", 3.3, 420, 1.7, 1.6),
    ("parahippocampal", 2.7, 690, 1.4, 1.0),
    ("superiorfrontal", 2.65, 7100, 1.0, 0.3),
    ("precuneus", 2.35, 3800, 1.0, 0.7),
    ("middletemporal", 2.8, 3300, 1.2, 0.9),
    ("pericalcarine", 1.6, 1350, 0.3, 0.05),
    ("lateralorbitofrontal", 2.6, 2600, 1.4, 0.3),
    ("superiortemporal", 2.75, 3700, 1.2, 0.7),
    ("fusiform", 2.7, 3200, 1.2, 0.9),
    ("precentral", 2.5, 4850, 1.0, 0.1),
    ("inferiorparietal", 2.4, 4900, 1.0, 0.8),
    ("insula", 2.95, 2200, 1.1, 0.4),
    ("posteriorcingulate", 2.4, 1150, 0.9, 0.7),
    ("rostralmiddlefrontal", 2.3, 5600, 0.7, 0.3),
    ("inferiortemporal", 2.75, 3300, 1.2, 0.9),
    ("lingual", 2.0, 3000, 0.6, 0.2),
    ("temporalpole", 3.6, 460, 1.4, 1.2),
    ("supramarginal", 2.5, 3850, 1.1, 0.6),
    ("postcentral", 2.05, 4100, 0.8, 0.05),
    ("medialorbitofrontal", 2.4, 1900, 1.3, 0.3),
    ("isthmuscingulate", 2.3, 1000, 0.9, 0.8),
    ("superiorparietal", 2.15, 5300, 0.9, 0.5),
    ("lateraloccipital", 2.15, 4900, 0.7, 0.3),
    ("caudalmiddlefrontal", 2.5, 2200, 0.8, 0.3),
    ("bankssts", 2.45, 1000, 1.2, 0.8),
    ("cuneus", 1.85, 1500, 0.5, 0.1),
    ("parsopercularis", 2.5, 1500, 1.1, 0.3),
    ("parstriangularis", 2.4, 1400, 1.0, 0.3),
    ("parsorbitalis", 2.6, 700, 1.1, 0.3),
    ("paracentral", 2.35, 1400, 0.9, 0.1),
    ("rostralanteriorcingulate", 2.75, 750, 0.7, 0.2),
    ("caudalanteriorcingulate", 2.5, 680, 0.6, 0.2),
    ("frontalpole", 2.7, 230, 1.0, 0.2),
    ("transversetemporal", 2.3, 420, 1.2, 0.1),
)


def catalogue(count: int) -> list[Feature]:
    """The first `count` features: volumes, thicknesses, areas and cortical volumes in turn, left before right.

    A longer catalogue starts with every shorter one. Past the named regions the cortex goes on with numbered parcels.
    """
    cortex = [
        (_latent(region, side, "thickness"), _latent(region, side, "area"))
        for region in map(_region, range(count // 6 + 2))
        for side in ("lh_", "rh_")
    ]
    columns = (
        _volumes(),
        [Feature(f"{thick.name}_thickness", "thickness", (thick,), 0.89, 0.45) for thick, _ in cortex],
        [Feature(f"{area.name}_area", "area", (area,), 0.985, 0.6) for _, area in cortex],
        [Feature(f"{thick.name}_volume", "cortical volume", (thick, area), 0.97, 0.4) for thick, area in cortex],
    )
    mixed = [feature for row in zip_longest(*columns) for feature in row if feature is not None]
    return mixed[:count]


def _volumes() -> list[Feature]:
    made = []
    for name, sided, size, cv, reliability, yearly, spread, axis in _VOLUMES:
        kind = "ventricle" if name in _VENTRICLES else "volume"
        for side in ("Left-", "Right-") if sided else ("",):
            latent = Latent(side + name, name, kind, size, cv, yearly / 100, spread / 100, axis)
            made.append(Feature(f"{side}{name}_volume", "volume", (latent,), reliability, 0.1))
    return made


def _region(number: int) -> tuple[str, float, float, float, float]:
    # A row of the table; past its end a numbered parcel, its figures spread evenly by multiples of irrational numbers.
    if number < len(_REGIONS):
        return _REGIONS[number]
    parcel = number - len(_REGIONS) + 1
    a, b, c, d = (parcel * step % 1 for step in (0.6180, 0.4142, 0.7321, 0.2361))
    return f"parcel{parcel:03d}", 2.1 + 0.9 * a, 300 + 1200 * b, 0.6 + 0.8 * c, 0.05 + 0.55 * d


def _latent(region: tuple[str, float, float, float, float], side: str, kind: str) -> Latent:
    name, thickness, area, pace, axis = region
    if kind == "thickness":
        return Latent(side + name, name, kind, thickness, 0.047, -0.0030 * pace, 0.0025, axis)
    return Latent(side + name, name, kind, area, 0.14, -0.0014 * pace, 0.002, 0.25 * axis)
