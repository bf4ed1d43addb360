# Numbers, text and threads of Python, printed so that they can be compared (see work).
import bz2, cmath, collections, concurrent.futures, decimal, fractions, hashlib, itertools, json, lzma
import math, os, queue, random, re, sqlite3, statistics, struct, subprocess, sys, threading, zlib

generator = random.Random(1)
sys.set_int_max_str_digits(0)
floats = [generator.uniform(-1, 1) * 10 ** generator.randint(-300, 300) for _ in range(2000)]
floats += [0.0, -0.0, math.inf, -math.inf, math.nan, 5e-324, 2.2250738585072014e-308, 1.7976931348623157e308]


def digest(text):
    return hashlib.sha256(repr(text).encode()).hexdigest()


print("repr", digest(floats), repr(floats[0]), "%.30e" % floats[1])
assert all(float(repr(x)) == x or x != x for x in floats)
for name in "sin cos tan exp expm1 log1p atan sinh cosh tanh erf gamma sqrt cbrt".split():
    values = []
    for x in floats:
        try:
            values.append(getattr(math, name)(x))
        except (ValueError, OverflowError) as error:
            values.append(str(error))
    print(name, digest(values))
for x in (1 + 2j, -0.5 - 3j, 1e100 + 1e-100j):
    print(cmath.sqrt(x), cmath.exp(x / abs(x)), cmath.log(x), x ** 0.3)
for x in floats[:1000:97]:
    print(x // 0.37, x % 0.37, math.frexp(x), round(x, 3), x.hex(), math.fmod(x, 7), math.remainder(x, 7))
print(math.fsum(floats[:500]), statistics.pstdev(range(1000)), sum(1 / n for n in range(1, 100000)))

decimal.getcontext().prec = 400
print(decimal.Decimal(2).sqrt(), decimal.Decimal(1).exp(), (decimal.Decimal(10) / 7).ln())
print(sum(fractions.Fraction(1, n) for n in range(1, 200)))
big = math.factorial(3000)
print(digest(big), big % (2 ** 521 - 1), pow(3, big, 2 ** 127 - 1), math.isqrt(big) % 10 ** 50, digest(str(7 ** 20000)))

for size in (0, 1, 55, 64, 1000, 1 << 20):
    data = generator.randbytes(size)
    print(size, *(hashlib.new(name, data).hexdigest()[:24] for name in (
        "md5", "sha1", "sha224", "sha256", "sha384", "sha512", "sha3_256", "blake2b", "blake2s")))
    print(zlib.crc32(data), zlib.adler32(data), *(digest(m.compress(data))[:24] for m in (zlib, bz2, lzma)))
    assert all(m.decompress(m.compress(data)) == data for m in (zlib, bz2, lzma))
print(hashlib.pbkdf2_hmac("sha256", b"apus", b"salt", 20000).hex(), hashlib.scrypt(b"a", salt=b"b", n=1024, r=8, p=1).hex())

tree = {str(i): [i / 7, {"a": "é\u4e2d\U0001f600" * (i % 5), "b": [None, True, -i]}] for i in range(3000)}
text = json.dumps(tree, sort_keys=True)
assert json.loads(text) == tree
print("json", digest(text), len(json.dumps(tree, indent=2)))

words = " ".join(generator.choice(["foo", "bar12", "Baz_9", "qux-quux", "α β", "1e5"]) for _ in range(20000))
print(len(re.findall(r"(?i)\b(ba[rz])[_\d]*\b", words)), digest(re.sub(r"(\w)-(\w+)", r"\2+\1", words)),
      digest(re.split(r"[\s,]+(?=\d)", words)), re.search(r"(a+)+$", "a" * 20) is not None)
print(digest(struct.pack("<" + "d" * len(floats), *floats)), struct.unpack(">hIqe", struct.pack(">hIqe", -2, 3, -4, 0.1)))
print(collections.Counter(words.split()).most_common(3), digest(sorted(words.split(), key=lambda w: w[::-1])))
print(digest(list(itertools.islice(itertools.permutations(range(9)), 0, 300000, 1009))))

database = sqlite3.connect(":memory:")
database.execute("create table t(a, b)")
database.executemany("insert into t values (?, ?)", ((i, math.sin(i)) for i in range(5000)))
print(database.execute("select count(*), sum(b), max(b) from t where a % 7 = 3").fetchall())

total, lock, line = 0, threading.Lock(), queue.Queue(10)


def add(count):
    global total
    for _ in range(count):
        with lock:
            total += 1
        if count % 1000 == 0:
            line.put(1, timeout=300)


threads = [threading.Thread(target=add, args=(2000 + i,)) for i in range(8)]
for thread in threads:
    thread.start()
taken = sum(line.get(timeout=300) for _ in range(2000))
for thread in threads:
    thread.join(300)
print("threads", total, taken)
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    print(digest(list(pool.map(lambda n: hashlib.sha256(bytes(n)).hexdigest(), range(0, 200000, 997)))))
with concurrent.futures.ProcessPoolExecutor(2) as pool:
    print(list(pool.map(math.factorial, range(20))))
for i in range(20):
    assert subprocess.run(["/bin/sh", "-c", f"echo {i}; exit {i}"], capture_output=True).returncode == i
children = []
for i in range(20):
    child = os.fork()
    if child == 0:
        os._exit(sum(range(i * 1000)) % 251)
    children.append(child)
print([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
