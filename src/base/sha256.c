/* SPDX-License-Identifier: MIT */
/* SHA-256, written from FIPS 180-4 (sections 4.1.2, 4.2.2, 5.1.1, 5.3.3 and 6.2). */
#include <fcntl.h>
#include <string.h>

#include "base/file.h"

/* Section 4.2.2: fractional parts of the cube roots of the first 64 primes. */
static const uint32_t k[64] = {
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4,
	0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe,
	0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f,
	0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7,
	0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc,
	0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b,
	0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116,
	0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
	0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7,
	0xc67178f2,
};

static inline uint32_t rotr(uint32_t x, unsigned n)
{
	return x >> n | x << (32 - n);
}

static inline uint32_t load_be32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* Section 6.2.2, step 3, for one t. The standard then moves each variable on to the next; here the
 * callers name them anew instead, which is more than twice as fast. */
static inline void step(uint32_t a, uint32_t b, uint32_t c, uint32_t *d, uint32_t e, uint32_t f,
			uint32_t g, uint32_t *h, uint32_t kw)
{
	uint32_t s1 = rotr(e, 6) ^ rotr(e, 11) ^ rotr(e, 25);
	uint32_t s0 = rotr(a, 2) ^ rotr(a, 13) ^ rotr(a, 22);
	uint32_t t1 = *h + s1 + ((e & f) ^ (~e & g)) + kw;

	*d += t1;
	*h = t1 + s0 + ((a & b) ^ (a & c) ^ (b & c));
}

/* Section 6.2.2: one block of 64 bytes. */
static void compress(uint32_t state[8], const uint8_t *block)
{
	uint32_t w[64], a = state[0], b = state[1], c = state[2], d = state[3];
	uint32_t e = state[4], f = state[5], g = state[6], h = state[7];

	for (int t = 0; t < 16; t++)
		w[t] = load_be32(block + 4 * t);
	for (int t = 16; t < 64; t++) {
		uint32_t s0 = rotr(w[t - 15], 7) ^ rotr(w[t - 15], 18) ^ w[t - 15] >> 3;
		uint32_t s1 = rotr(w[t - 2], 17) ^ rotr(w[t - 2], 19) ^ w[t - 2] >> 10;

		w[t] = s1 + w[t - 7] + s0 + w[t - 16];
	}
	for (int t = 0; t < 64; t += 8) {
		step(a, b, c, &d, e, f, g, &h, k[t] + w[t]);
		step(h, a, b, &c, d, e, f, &g, k[t + 1] + w[t + 1]);
		step(g, h, a, &b, c, d, e, &f, k[t + 2] + w[t + 2]);
		step(f, g, h, &a, b, c, d, &e, k[t + 3] + w[t + 3]);
		step(e, f, g, &h, a, b, c, &d, k[t + 4] + w[t + 4]);
		step(d, e, f, &g, h, a, b, &c, k[t + 5] + w[t + 5]);
		step(c, d, e, &f, g, h, a, &b, k[t + 6] + w[t + 6]);
		step(b, c, d, &e, f, g, h, &a, k[t + 7] + w[t + 7]);
	}
	state[0] += a;
	state[1] += b;
	state[2] += c;
	state[3] += d;
	state[4] += e;
	state[5] += f;
	state[6] += g;
	state[7] += h;
}

/*
 * The state holds the digest of the whole blocks so far, `block` the begun one (len % 64 bytes),
 * `len` all bytes: at the end it is needed in bits.
 */
void sha256_init(struct sha256 *s)
{
	/* Section 5.3.3. */
	static const uint32_t initial[8] = {
		0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
		0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
	};

	memcpy(s->state, initial, sizeof(initial));
	s->len = 0;
}

void sha256_update(struct sha256 *s, const void *data, size_t len)
{
	const uint8_t *p = data;
	size_t used = s->len % 64;

	if (len == 0)
		return;
	s->len += len;
	if (used > 0) {
		size_t n = MIN(len, 64 - used);

		memcpy(s->block + used, p, n);
		p += n;
		len -= n;
		if (used + n < 64)
			return;
		compress(s->state, s->block);
	}
	for (; len >= 64; p += 64, len -= 64)
		compress(s->state, p);
	memcpy(s->block, p, len);
}

void sha256_update_str(struct sha256 *s, const char *str)
{
	sha256_update(s, str, strlen(str) + 1);
}

void sha256_hex(struct sha256 *s, char ret[DIGEST_HEX_MAX])
{
	static const char digits[] = "0123456789abcdef";
	static const uint8_t padding[64] = {0x80};
	uint64_t bits = s->len * 8;
	uint8_t length[8];

	/* Section 5.1.1: a one bit, zeros, and the length in bits in the last eight bytes. */
	for (int i = 0; i < 8; i++)
		length[i] = (uint8_t)(bits >> (56 - 8 * i));
	sha256_update(s, padding, 1 + (119 - s->len % 64) % 64);
	sha256_update(s, length, sizeof(length));
	for (int i = 0; i < 64; i++)
		ret[i] = digits[s->state[i / 8] >> (28 - 4 * (i % 8)) & 15];
	ret[64] = '\0';
}

int sha256_file(const char *path, char ret[DIGEST_HEX_MAX], struct error *err)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	_cleanup_free_ uint8_t *chunk = NULL;
	const size_t chunk_bytes = 128 * KIB;
	struct sha256 s;

	if (fd < 0)
		return error_set_errno(err, ERROR_INFRA, errno, "cannot open '%s'", path);
	chunk = malloc(chunk_bytes);
	if (!chunk)
		return error_set_errno(err, ERROR_INFRA, ENOMEM, "cannot read '%s'", path);
	sha256_init(&s);
	for (;;) {
		ssize_t n = read(fd, chunk, chunk_bytes);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_set_errno(err, ERROR_INFRA, errno, "cannot read '%s'", path);
		if (n == 0)
			break;
		sha256_update(&s, chunk, (size_t)n);
	}
	sha256_hex(&s, ret);
	return 0;
}
