"""``python -m fourfold.book COMMAND``: the chores of the book."""

from fourfold.book.commands import main

if __name__ == "__main__":
    main()
