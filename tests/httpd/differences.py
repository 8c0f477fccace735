"""Where Apache 2.4 and nginx 1.22 do otherwise than the corpus expects: why -> which cases.

The cases are ids, or patterns of ids with ``*`` whose every case differs.
"""

from __future__ import annotations

APACHE: dict[str, str] = {
    "Transfer-Encoding wins over Content-Length, and the connection is closed": """
        H1-both-coding-first H1-both-length-first H1-both-length-0 H1-both-length-3
        H1-both-length-100 H1-both-length-15 H1-both-length-55 H1-classic-* H1-both-on-*
        H1-both-coding-twice H1-both-lower-case H1-both-upper-case H1-both-in-1.0
        H1-both-named-by-connection
        H1-both-coding-named-by-connection H1-both-far-apart H16-both H18-second-bad-both""",
    "a list of codings, in one field or two, is taken when its last member is chunked": """
        H2-value-,chunked H2-value-*,SPchunked H2-twice-*-chunked H2-twice-in-two-cases
        H2-twice-apart""",
    "Transfer-Encoding is heeded in HTTP/1.0, and the connection is closed": """
        H2-old-chunked* H2-old-without-host H2-old-get""",
    "obsolete folding is undone; a blank before the second line is no field": """
        H1-line-Transfer-Encoding:CRLFSPchunkedCRLF H1-line-Transfer-Encoding:SPCRLFTABchunkedCRLF
        H1-line-X-A:SPbCRLFSPTransfer-Encoding:SPchunkedCRLF H3-line-Content-Length:CRLFSP5CRLF
        H4-folded-first H5-fold-space* H5-fold-tab H5-fold-mixed H5-fold-twice
        H5-fold-of-empty-value H5-fold-hides-a-field H5-fold-in-1.0 H8-bad-fold""",
    "an absolute target makes Host not worth a look": "H4-twice-but-absolute H4-bad-but-absolute",
    "a port that is empty is an error": "H4-good-h.test:",
    "HTTP/0.9 is served by default (Allow0.9)": """
        H5-fold-request-line H6-line-space-missing-second H6-line-old H6-line-old-space
        H6-line-old-absolute H6-old-pipelined""",
    "any version above 1.0 is served as 1.1": """
        H6-version-HTTP/2.0 H6-version-HTTP/3.0 H6-version-HTTP/9.9 H18-second-bad-version""",
    "white space after a chunk's size is skipped": "H7-size-5SP H7-last-5SP H7-size-5TAB",
    "zeroes before a chunk's size do not count": """
        H7-size-00000000000000005 H7-size-00000000-401""",
    "LimitRequestBody is not for what mod_proxy passes on: a body of any size is awaited": """
        H7-huge-7fffffffffffffff H12-*""",
    "417 is not sent before the body has come": """
        H16-unknown-1* H16-unknown-200-ok H16-unknown-miracles H16-unknown-x*""",
    "mod_proxy_fcgi asks for the body before it asks the application": "H16-unread-withheld*",
    "a NUL in the path is 404": """
        E9-bad-/%00* E9-bad-/a%00* E9-bad-/a/%00 H9-bad-path-*""",
    "CONNECT goes to the handler": "H9-connect-* H15-connect-authority H15-connect-ipv6",
    "LimitRequestLine and LimitRequestFieldSize let one byte more pass": """
        H11-line-query-8191 H11-line-method-8191 H11-field-*-8191""",
    "the path is looked for in the file system, where a name that long is 403": """
        H11-line-path-* H11-line-segment-* H11-line-absolute-8191""",
    "too large or too many fields are 400": """
        H11-field-20000 H11-field-endless H11-field-last-of-many H11-fields-*-101 H11-fields-5000
        H11-fields-endless H11-fields-in-1.0 H18-second-bad-fields""",
    "REQUEST_URI is the absolute target as it came": """
        H15-absolute-path H15-absolute-query H15-absolute-port H15-absolute-upper-case
        H15-absolute-escapes H15-absolute-nested H15-absolute-at-in-path H15-absolute-ipv6
        H15-absolute-host-wins H15-absolute-in-1.0 H15-absolute-https H15-absolute-post""",
    "an absolute target without a host is taken": "H15-absolute-bad-no-host"
    " H15-absolute-bad-one-slash H15-absolute-bad-empty",
    "a target may begin with the query": "H15-form-query",
    "the connection is closed where 100 was not sent": """
        H16-at-once* H16-without-body H16-length-zero H16-old-kept-is-not-told""",
    "the beginning of the word close, or the word among others, is close": """
        H19-kept-clos H19-kept-quoted H19-kept-close-with-parameter""",
    "mod_proxy_fcgi drops Content-Length, so that HTTP/1.0 cannot be kept": "H19-old-kept-*",
    "names with underscores are dropped before anybody could confuse them": """
        E3-two-* H3-underscore-name H9-ambiguous-*""",
    "mod_proxy counts Max-Forwards down": "legal-field-max-forwards",
}

_NGINX_LF = """
    H3-line-X-A:SPbLFContent-Length:SP5CRLF H3-line-Content-Length:SP5LF H4-hidden-behind-lf
    H5-control-name-x0a H4-control-host-x0a H5-control-value-x0a H5-lf-everywhere
    H5-lf-request-line H5-lf-field H5-lf-second-field H5-lf-empty-line H5-lf-lf H5-lf-in-1.0
    H5-lf-post H5-lf-before-chunks H5-lf-cr H5-lf-before-request-line H7-end-LF H7-size-lf
    H7-lf-everywhere H7-last-lf H7-last-then-lf"""

NGINX: dict[str, str] = {
    "a bare LF ends a line, in heads and between chunks": _NGINX_LF,
    "a CR before the end of a line, or before a request, is skipped": """
        H2-value-chunkedCR H3-value-5CR H5-cr-cr-lf-field H5-cr-before-request-line""",
    "a field whose name is no token is dropped, and so is a line without a colon": """
        H1-line-Transfer-Encodingx85:SPchunkedCRLF H1-line-Transfer-Encodingxa0:SPchunkedCRLF
        H1-line-xa0Transfer-Encoding:SPchunkedCRLF H1-line-xefxbbxbfTransfer-Encoding:SPchunkedCRLF
        H1-line-Transfer-xc3x8bncoding:SPchunkedCRLF H1-line-Transfer-Encodxc4xb1ng:SPchunkedCRLF
        H1-line-x22Transfer-Encodingx22:SPchunkedCRLF H3-line-Content-Lengthxa0:SP5CRLF
        H5-name-character-x22 H5-name-character-x28 H5-name-character-x29
        H5-name-character-x2c H5-name-character-x2f H5-name-character-x3*
        H5-name-character-x40 H5-name-character-x5*
        H5-name-character-x7* H5-name-character-x8* H5-name-character-xa0 H5-name-character-xc3
        H5-name-character-xff H5-name-no-colon H5-name-first-no-colon H5-name-high-before-colon
        H5-name-first-high-before-colon H5-name-equals H5-name-first-equals H14-name-then-bad""",
    "control characters but NUL, CR and LF may stand in a value": """
        H5-control-value-x01 H5-control-value-x02 H5-control-value-x03 H5-control-value-x04
        H5-control-value-x05 H5-control-value-x06 H5-control-value-x07 H5-control-value-x08
        H5-control-value-x0b H5-control-value-x0c H5-control-value-x0e H5-control-value-x0f
        H5-control-value-x1* H5-control-value-x7f H5-control-value-end-x0b
        H5-control-value-end-x0c H5-control-value-end-x1* H5-control-value-end-x7f
        H5-control-value-start-x0b H5-control-value-start-x0c H5-control-value-start-x1*
        H5-control-value-start-x7f H14-spaces-then-control H14-letters-then-control
        H14-high-then-control""",
    "a tab around a value belongs to it": """
        H2-exact-TABchunked H2-exact-chunkedSPTABSP H3-exact-5SPTAB H3-exact-TAB5
        H4-good-white-space legal-value-tab legal-value-white-space""",
    "Host may have any character but a slash and a control, and any port": """
        H4-character-x22 H4-character-x23 H4-character-x3* H4-character-x4* H4-character-x5*
        H4-character-x6* H4-character-x7* H4-character-x8* H4-character-xc3 H4-character-xff
        H4-bad-u@h.test H4-bad-u:p@h.test H4-bad-@h.test H4-bad-h.test@ H4-bad-h.test:80@evil.test
        H4-bad-h.testx3fx H4-bad-h.testx23x H4-bad-h.testx5cx H4-bad-x22h.testx22
        H4-bad-x3ch.testx3e H4-bad-h.test:-1 H4-bad-h.test:+80 H4-bad-h.test:80x
        H4-bad-h.test:0x50 H4-bad-h.test:8_0 H4-bad-h.test:http H4-bad-h.test:80:80
        H4-bad-h.test:xd9xa8xd9xa0 H4-bad-h.test:xefxbcx98xefxbcx90 H4-bad-h.test:80xb2
        H4-bad-h.testxa0 H4-bad-xa0h.test H4-bad-h.testx85 H4-bad-x5b::1 H4-bad-x5b::1x5d80
        H4-bad-x5b::1x5dh.test H4-bad-h.testx5b::1x5d H4-bad-x5b::1x5d:x H4-bad-x5b::1x5dx5d
        H4-bad-x5bx5b::1x5dx5d H4-bad-x5b::gx5d H4-bad-x5bh.testx5d H4-bad-x5bx5d
        H4-bad-x5b::1x5d:80:80 H4-bad-h%zz H4-bad-h%2 H4-bad-h%00 H14-colons-in-host""",
    "HTTP/0.9 is served, and a line without a version is HTTP/0.9": """
        H6-control-target-x0a H5-fold-request-line H6-line-space-missing-second H6-line-old
        H6-line-old-space H6-line-old-post H6-line-old-absolute H6-old-with-body
        H6-old-pipelined""",
    "several spaces in the request line are one": """
        H6-line-space-two-first H6-line-space-two-second H6-line-space-after""",
    "1.10 and 1.01 are versions above 1.0": "H6-version-HTTP/1.10 H6-version-HTTP/1.01",
    "white space after a chunk's size is skipped, with what follows it": """
        H7-size-5SP H7-size-5SP5 H7-last-5SP H7-size-5TAB""",
    "zeroes before a chunk's size do not count": """
        H7-size-00000000000000005 H7-size-00000000-401 H7-size-endless""",
    "chunk extensions are skipped unread, without a limit": """
        H7-extension-;NUL H7-extension-;aNULb H7-extension-;a=x01 H7-extension-;a=x0b
        H7-extension-;a=x7f H7-extension-;a=x22bNULcx22 H7-extension-long H7-extension-long-last
        H7-extension-endless""",
    "trailers are skipped unread, without a limit": """
        H7-last-then-x H8-bad-no-colon H8-bad-empty-name H8-bad-space-before-colon
        H8-bad-space-first H8-bad-fold H8-bad-lf H8-bad-lf-end H8-bad-nul H8-bad-control
        H8-bad-delete H8-bad-bad-name H8-bad-high-name H8-bad-request-line H8-bad-chunk
        H8-bad-lf-empty-line H8-long H8-many""",
    "an encoded slash is a slash, as any escape is what it stands for": """
        E9-slash-/%2F E9-slash-/%2f E9-slash-/a%2Fb E9-slash-/a%2f E9-slash-/%2fetc/passwd
        E9-slash-/a/%2F/b E9-slash-/a%2fx3fx=%2F E9-slash-/a/..%2fb H9-encoded-slash-*""",
    "a value of Expect that it does not know is passed on": """
        H9-expectation-* H16-unknown-*""",
    "the body is awaited before the application is asked": "H16-unread-withheld*",
    "too large fields are 400": """
        H11-field-value-8191 H11-field-cookie-8191 H11-field-agent-8191 H11-field-name-8191
        H11-field-host-8191 H11-field-20000 H11-field-endless H11-field-last-of-many""",
    "fields are limited by the size of all, not by their number": """
        H11-fields-*-101 H11-fields-5000 H11-fields-endless H11-fields-in-1.0
        H18-second-bad-fields""",
    "a head must fit into one record of FastCGI, or is 500": "H11-head-80000",
    "Host stays as it came beside an absolute target": "H15-absolute-host-wins",
    "an absolute target may have any scheme": "H15-absolute-bad-other-scheme",
    "a fragment is cut off the path": "H15-fragment",
    "OPTIONS * is 400": "H15-options-all",
    "the word close anywhere in Connection is close": """
        H19-kept-closed H19-kept-quoted H19-kept-close-with-parameter""",
    "names with underscores are dropped before anybody could confuse them": """
        E3-two-* H3-underscore-name H9-ambiguous-*""",
    "methods are of capital letters, _ and -": """
        legal-method-other-get legal-method-other-Get legal-method-other-Post
        legal-method-other-x21* legal-method-other-GET1 legal-method-other-0""",
}
