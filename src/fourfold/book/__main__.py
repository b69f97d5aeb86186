"""``python -m fourfold.book COMMAND``: the chores of the book."""

from fourfold.book.commands import main

main()
