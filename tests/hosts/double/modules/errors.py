import traceback

reports = []


def report(message, *, exc_info=False):
    reports.append(message)
    print("***", message)
    if exc_info:
        traceback.print_exc()
