"""The engines that can be measured. Each is a module with one class, and is named here."""
import importlib

NAMES = ["postgresql", "mysql", "redis", "mongodb"]


def engine(name):
    return importlib.import_module(f"engines.{name}").Engine()
