"""Microcontrollers, by the C code of ``--to c``."""

from __future__ import annotations

from spikesearch.device.targets import DeviceTarget, integer_problems, register

# A Cortex-M4 of the middle, such as ST's STM32F446 (datasheet DS10693): 512 KiB of flash, 128 KiB of SRAM.
LIMITS = {"flash_kB": 512.0, "ram_kB": 128.0}

register(DeviceTarget("mcu", integer_problems, LIMITS))
