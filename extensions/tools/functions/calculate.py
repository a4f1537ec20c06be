"""Arithmetic, as a calculator does it; nothing else is evaluated."""

import ast
import math
import operator

tool = {
    "type": "function",
    "function": {
        "name": "calculate",
        "description": "Compute an arithmetic expression exactly. Use it for any sum that is not "
        "trivial. Has + - * / // % **, parentheses, pi, e, and the functions sqrt, abs, round, "
        "floor, ceil, exp, log, log10, sin, cos, tan, min, max, factorial.",
        "parameters": {
            "type": "object",
            "properties": {
                "expression": {
                    "type": "string",
                    "description": "The expression, such as 17 * (3 + 4) / sqrt(2).",
                    "maxLength": 500,
                }
            },
            "required": ["expression"],
            "additionalProperties": False,
        },
    },
}

_LARGEST = 10**300
_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}
_CONSTANTS = {"pi": math.pi, "e": math.e}
_FUNCTIONS = {
    name: getattr(math, name)
    for name in ("sqrt", "floor", "ceil", "exp", "log", "log10", "sin", "cos", "tan")
} | {"abs": abs, "round": round, "min": min, "max": max}


def execute(arguments: dict) -> str:
    """The value of the expression."""
    expression = arguments["expression"].replace("^", "**")
    return f"{arguments['expression']} = {_value(ast.parse(expression, mode='eval').body)}"


def _value(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return number
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.UnaryOp(op=sign, operand=operand) if type(sign) in _OPERATORS:
            return _OPERATORS[type(sign)](_value(operand))
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power(_value(left), _value(right))
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _OPERATORS:
            return _bounded(_OPERATORS[type(sign)](_value(left), _value(right)))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
            return _called(name, [_value(one) for one in args])
    raise ValueError(f"{ast.unparse(node)} is no arithmetic")


def _called(name: str, numbers: list[float]) -> float:
    if name == "factorial" and len(numbers) == 1 and numbers[0] <= 150:
        return math.factorial(numbers[0])
    if name not in _FUNCTIONS:
        raise ValueError(f"there is no function {name} for {numbers}")
    return _bounded(_FUNCTIONS[name](*numbers))


def _power(base: float, exponent: float) -> float:
    """Bounded before it is computed, since 9**9**9 would take forever."""
    if abs(base) > 1 and exponent * math.log10(abs(base)) > 300:
        raise ValueError("the result is too large")
    return _bounded(base**exponent)


def _bounded(number: float) -> float:
    if isinstance(number, complex):
        raise ValueError("the result is no real number")
    if isinstance(number, int) and abs(number) > _LARGEST:
        raise ValueError("the result is too large")
    return number
