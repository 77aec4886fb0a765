# A browser of QtWebKit without a window. Orders come as lines of JSON on standard input, answers go to standard output:
#
#   {"id": 1, "do": "open"}                               {"id": 1, "value": "1"}      the page's name
#   {"id": 2, "do": "goto", "page": "1", "url": "http…"}  {"id": 2, "value": true}     once it has loaded
#   {"id": 3, "do": "run", "page": "1", "script": "…"}    {"id": 3, "value": "…"}      what the script gave, as text
#   {"id": 4, "do": "back", "page": "1"}                  {"id": 4, "value": true}     once it has loaded
#   {"id": 5, "do": "close", "page": "1"}                 {"id": 5, "value": null}
#
# The end of standard input ends the program. No WebDriver server for this engine is maintained.
import json
import os
import sys

os.environ.setdefault('QT_QPA_PLATFORM', 'offscreen')

from PyQt5.QtCore import QSize, QSocketNotifier, QUrl
from PyQt5.QtWebKitWidgets import QWebPage
from PyQt5.QtWidgets import QApplication


class Page(QWebPage):
    def javaScriptConsoleMessage(self, message, line, source):
        sys.stderr.write(f'{source}:{line}: {message}\n')

    def javaScriptAlert(self, frame, message):
        sys.stderr.write(f'alert: {message}\n')


class Browser:
    def __init__(self):
        self.pages = {}
        self.opened = 0
        self.rest = b''

    def read(self):
        chunk = os.read(0, 1 << 16)
        if not chunk:
            QApplication.quit()
            return
        *lines, self.rest = (self.rest + chunk).split(b'\n')
        for line in lines:
            order = json.loads(line)
            getattr(self, 'do_' + order['do'])(order)

    def answer(self, order, value):
        os.write(1, (json.dumps({'id': order['id'], 'value': value}) + '\n').encode())

    def do_open(self, order):
        self.opened += 1
        page = Page()
        page.setViewportSize(QSize(1280, 900))
        self.pages[str(self.opened)] = page
        self.answer(order, str(self.opened))

    def do_goto(self, order):
        self.load(order, lambda page: page.mainFrame().load(QUrl(order['url'])))

    def do_back(self, order):
        self.load(order, lambda page: page.history().back())

    def load(self, order, start):
        page = self.pages[order['page']]

        def loaded(ok):
            page.loadFinished.disconnect(loaded)
            self.answer(order, ok)

        page.loadFinished.connect(loaded)
        start(page)

    def do_run(self, order):
        self.answer(order, self.pages[order['page']].mainFrame().evaluateJavaScript(order['script']))

    def do_close(self, order):
        page = self.pages.pop(order['page'])
        # Its scripts, sockets and frames end with the document.
        page.mainFrame().setUrl(QUrl('about:blank'))
        page.deleteLater()
        self.answer(order, None)


app = QApplication(sys.argv[:1])
browser = Browser()
notifier = QSocketNotifier(0, QSocketNotifier.Read)
notifier.activated.connect(browser.read)
app.exec_()
