"""${title}.

${authors}, arXiv ${arxiv}.
"""
