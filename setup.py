"""What pyproject.toml cannot say: `kernels/` is installed as `secondgram.kernels`. The rest stands there."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["secondgram", "secondgram.*"]),
        *(f"secondgram.{name}" for name in find_packages(include=["kernels", "kernels.*"])),
    ],
    package_dir={"secondgram": "secondgram", "secondgram.kernels": "kernels"},
    cmake_source_dir=".",
)
