class Notifier:
    watchdog_interval = None
    def __init__(self): pass
    def ready(self, s=""): pass
    def reloading(self): pass
    def stopping(self): pass
    def status(self, t): pass
    def watchdog(self): pass
    def environment(self): return {}
