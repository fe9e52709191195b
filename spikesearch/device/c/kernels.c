/* kernel check: polynomial checksum of what a layer does; nothing, unless compiled for the test */
#ifdef @U@_CHECK
uint32_t @p@_checks[@CHECKS@];
static void @P@_check(int layer, uint32_t value)
{
    @p@_checks[layer] = @p@_checks[layer] * 16777619u + value;
}
#else
#define @P@_check(layer, value) ((void)(layer))
#endif

/* kernel shift_right: floor(value / 2^places); C99 leaves right shifts of negative numbers to the compiler */
static int64_t @P@_shift_right(int64_t value, int places)
{
    return value >= 0 ? value >> places : ~(~value >> places);
}

/* kernel rounded: floor(value / 2^places + 1/2); needs shift_right */
static int64_t @P@_rounded(int64_t value, int places)
{
    return places ? @P@_shift_right(@P@_shift_right(value, places - 1) + 1, 1) : value;
}

/* kernel scaled: sums to currents, in place; needs rounded check */
static void @P@_scaled(int32_t *sums, const int16_t *multiplier, const uint8_t *shift, const int32_t *bias, int count,
                       int check)
{
    int i;
    for (i = 0; i < count; i++) {
        sums[i] = (int32_t)@P@_rounded((int64_t)sums[i] * multiplier[i], shift[i]) + bias[i];
        @P@_check(check, (uint32_t)sums[i]);
    }
}

/* kernel saturated: a current within its range */
static int32_t @P@_saturated(int32_t value)
{
    if (value > @LIMIT@)
        return @LIMIT@;
    return value < -@LIMIT@ - 1 ? -@LIMIT@ - 1 : value;
}

/* kernel lowest: position of the lowest bit that is set */
static int @P@_lowest(uint32_t bits)
{
#if defined(__GNUC__) && __SIZEOF_INT__ >= 4 && !defined(@U@_PORTABLE)
    return __builtin_ctz(bits);
#else
    int place = 0;
    while (!(bits & 1u)) {
        bits >>= 1;
        place++;
    }
    return place;
#endif
}

/* kernel popcount: bits that are set */
static int @P@_popcount(uint32_t bits)
{
#if defined(__GNUC__) && __SIZEOF_INT__ >= 4 && !defined(@U@_PORTABLE)
    return __builtin_popcount(bits);
#else
    bits -= (bits >> 1) & 0x55555555u;
    bits = (bits & 0x33333333u) + ((bits >> 2) & 0x33333333u);
    bits = (bits + (bits >> 4)) & 0x0f0f0f0fu;
    return (int)((bits * 0x01010101u) >> 24);
#endif
}

/* kernel add_bits: the weights of every input that spikes, of one position, two inputs at a time; needs lowest */
static void @P@_add_bits(int32_t *restrict sums, const uint32_t *bits, const int8_t *weight, int groups, int channels,
                         int outputs)
{
    int group, base, i;
    for (group = 0; group < groups; group++, weight += (long)channels * outputs)
        for (base = 0; base < channels; base += 32) {
            uint32_t word = *bits++;
            while (word) {
                const int8_t *restrict first = weight + (long)(base + @P@_lowest(word)) * outputs;
                word &= word - 1;
                if (word) {
                    const int8_t *restrict second = weight + (long)(base + @P@_lowest(word)) * outputs;
                    word &= word - 1;
                    for (i = 0; i < outputs; i++)
                        sums[i] += first[i] + second[i];
                } else {
                    for (i = 0; i < outputs; i++)
                        sums[i] += first[i];
                }
            }
        }
}

/* kernel add_bits_own: the same of a depthwise convolution; needs lowest */
static void @P@_add_bits_own(int32_t *sums, const uint32_t *bits, const int8_t *weight, int groups, int channels,
                             int outputs)
{
    int group, base;
    (void)outputs;
    for (group = 0; group < groups; group++, weight += channels, sums += channels)
        for (base = 0; base < channels; base += 32) {
            uint32_t word = *bits++;
            while (word) {
                int i = base + @P@_lowest(word);
                sums[i] += weight[i];
                word &= word - 1;
            }
        }
}

/* kernel add_counts: weights times sums of spikes, of one position */
static void @P@_add_counts(int32_t *restrict sums, const uint8_t *counts, const int8_t *restrict weight, int channels,
                           int outputs)
{
    int channel, i;
    for (channel = 0; channel < channels; channel++, weight += outputs) {
        int32_t count = counts[channel];
        if (count)
            for (i = 0; i < outputs; i++)
                sums[i] += count * weight[i];
    }
}

/* kernel add_counts_own: the same of a depthwise convolution */
static void @P@_add_counts_own(int32_t *sums, const uint8_t *counts, const int8_t *weight, int channels, int outputs)
{
    int i;
    (void)outputs;
    for (i = 0; i < channels; i++)
        sums[i] += counts[i] * weight[i];
}

/* kernel add_pixels: weights times pixels less their zero point, of one position */
static void @P@_add_pixels(int32_t *restrict sums, const uint8_t *pixels, const uint8_t *zero,
                           const int8_t *restrict weight, int channels, int outputs, int plane)
{
    int channel, i;
    for (channel = 0; channel < channels; channel++, weight += outputs) {
        int32_t value = (int32_t)pixels[(long)channel * plane] - zero[channel];
        if (value)
            for (i = 0; i < outputs; i++)
                sums[i] += value * weight[i];
    }
}

/* kernel fire: one neuron; needs saturated rounded */
static uint32_t @P@_fire(int32_t current, @CURRENT@ *potential, int32_t threshold, int32_t multiplier, int places)
{
    int32_t h = @P@_saturated(current);
    if (potential) {
        int32_t v = *potential;
        h = v + (int32_t)@P@_rounded((@PRODUCT@)(h - v) * multiplier, places);
        *potential = (@CURRENT@)(h >= threshold ? 0 : h);
    }
    return h >= threshold;
}

/* kernel fire_sums: the neurons of a position behind a layer; needs fire check */
static void @P@_fire_sums(const int32_t *sums, uint32_t *bits, @CURRENT@ *potentials, int groups, int channels,
                          int32_t threshold, int32_t multiplier, int places, int check)
{
    int group, i;
    for (group = 0; group < groups; group++) {
        uint32_t word = 0;
        for (i = 0; i < channels; i++) {
            uint32_t spike = @P@_fire(*sums++, potentials, threshold, multiplier, places);
            @P@_check(check, spike);
            word |= spike << (i & 31);
            if ((i & 31) == 31 || i == channels - 1) {
                *bits++ = word;
                word = 0;
            }
            if (potentials)
                potentials++;
        }
    }
}

/* kernel fire_currents: the neurons of all positions that read currents; needs fire check */
static void @P@_fire_currents(const @CURRENT@ *currents, uint32_t *bits, @CURRENT@ *potentials, int positions,
                              int channels, const @CURRENT@ *thresholds, int32_t threshold, const @CURRENT@ *bias,
                              int32_t multiplier, int places, int check)
{
    int position, i;
    for (position = 0; position < positions; position++) {
        uint32_t word = 0;
        for (i = 0; i < channels; i++) {
            int32_t current = (int32_t)*currents++ + (bias ? bias[i] : 0);
            uint32_t spike =
                @P@_fire(current, potentials, thresholds ? thresholds[i] : threshold, multiplier, places);
            @P@_check(check, spike);
            word |= spike << (i & 31);
            if ((i & 31) == 31 || i == channels - 1) {
                *bits++ = word;
                word = 0;
            }
            if (potentials)
                potentials++;
        }
    }
}

/* kernel store: the currents of a position into a buffer; needs saturated */
static void @P@_store(const int32_t *sums, @CURRENT@ *currents, int channels)
{
    int i;
    for (i = 0; i < channels; i++)
        currents[i] = (@CURRENT@)@P@_saturated(sums[i]);
}

/* kernel add: the same, added to what the buffer holds; needs saturated */
static void @P@_add(const int32_t *sums, @CURRENT@ *currents, int channels)
{
    int i;
    for (i = 0; i < channels; i++)
        currents[i] = (@CURRENT@)@P@_saturated(currents[i] + sums[i]);
}

/* kernel pool_bits: spikes in windows of 3 x 3, with stride 2 */
static void @P@_pool_bits(const uint32_t *source, uint32_t *target, int side, int words)
{
    int y, x, dy, dx, i;
    for (y = 0; y < side; y += 2)
        for (x = 0; x < side; x += 2, target += words) {
            memset(target, 0, (size_t)words * sizeof *target);
            for (dy = y > 0 ? y - 1 : 0; dy <= y + 1 && dy < side; dy++)
                for (dx = x > 0 ? x - 1 : 0; dx <= x + 1 && dx < side; dx++)
                    for (i = 0; i < words; i++)
                        target[i] |= source[(dy * side + dx) * words + i];
        }
}

/* kernel pool_currents: the largest current in windows of 3 x 3, with stride 2 */
static void @P@_pool_currents(const @CURRENT@ *source, @CURRENT@ *target, int side, int channels)
{
    int y, x, dy, dx, i;
    for (y = 0; y < side; y += 2)
        for (x = 0; x < side; x += 2, target += channels) {
            memcpy(target, source + (long)(y * side + x) * channels, (size_t)channels * sizeof *target);
            for (dy = y > 0 ? y - 1 : 0; dy <= y + 1 && dy < side; dy++)
                for (dx = x > 0 ? x - 1 : 0; dx <= x + 1 && dx < side; dx++)
                    for (i = 0; i < channels; i++) {
                        @CURRENT@ current = source[(long)(dy * side + dx) * channels + i];
                        if (current > target[i])
                            target[i] = current;
                    }
        }
}

/* kernel tile_bits: spikes as counts, channels again from the first */
static void @P@_tile_bits(const uint32_t *source, uint8_t *target, int positions, int words, int channels, int width)
{
    int position, i;
    for (position = 0; position < positions; position++, source += words)
        for (i = 0; i < width; i++) {
            int channel = i % channels;
            *target++ = (uint8_t)((source[channel / 32] >> (channel & 31)) & 1u);
        }
}

/* kernel tile_currents: currents, channels again from the first */
static void @P@_tile_currents(const @CURRENT@ *source, @CURRENT@ *target, int positions, int channels, int width)
{
    int position, i;
    for (position = 0; position < positions; position++, source += channels)
        for (i = 0; i < width; i++)
            *target++ = source[i % channels];
}

/* kernel shortcut_currents: means of cells of 2 x 2, channels again from the first; needs rounded */
static void @P@_shortcut_currents(const @CURRENT@ *source, @CURRENT@ *target, int side, int channels, int width)
{
    int y, x, i;
    for (y = 0; y < side; y += 2)
        for (x = 0; x < side; x += 2)
            for (i = 0; i < width; i++) {
                const @CURRENT@ *cell = source + (long)(y * side + x) * channels + i % channels;
                int right = x + 1 < side, below = y + 1 < side;
                int32_t sum = cell[0];
                if (right)
                    sum += cell[channels];
                if (below)
                    sum += cell[(long)side * channels];
                if (right && below)
                    sum += cell[(long)(side + 1) * channels];
                *target++ = (@CURRENT@)@P@_rounded(sum, right + below);
            }
}

/* kernel shortcut_counts: the largest count of cells of 2 x 2, channels again from the first */
static void @P@_shortcut_counts(const uint8_t *source, uint8_t *target, int side, int channels, int width)
{
    int y, x, dy, dx, i;
    for (y = 0; y < side; y += 2)
        for (x = 0; x < side; x += 2)
            for (i = 0; i < width; i++) {
                uint8_t largest = 0;
                for (dy = y; dy < y + 2 && dy < side; dy++)
                    for (dx = x; dx < x + 2 && dx < side; dx++) {
                        uint8_t count = source[(long)(dy * side + dx) * channels + i % channels];
                        if (count > largest)
                            largest = count;
                    }
                *target++ = largest;
            }
}

/* kernel count: spikes added to counts; needs lowest */
static void @P@_count(const uint32_t *bits, uint8_t *counts, int positions, int channels)
{
    int position, base;
    for (position = 0; position < positions; position++, counts += channels)
        for (base = 0; base < channels; base += 32) {
            uint32_t word = *bits++;
            while (word) {
                counts[base + @P@_lowest(word)]++;
                word &= word - 1;
            }
        }
}

/* kernel attend: spikes of (q k^T) v and its neurons; needs popcount lowest check */
static void @P@_attend(const uint32_t *qkv, uint32_t *bits, @STATE@ *potentials, int32_t *product, int positions,
                       int heads, int channels, int check)
{
    const int words = (channels + 31) / 32, stride = 3 * heads * words, width = heads * channels;
    int i, j, head, k, c;
    for (i = 0; i < positions; i++, bits += (width + 31) / 32) {
        memset(bits, 0, (size_t)((width + 31) / 32) * sizeof *bits);
        for (head = 0; head < heads; head++) {
            const uint32_t *q = qkv + (long)i * stride + head * words;
            memset(product, 0, (size_t)channels * sizeof *product);
            for (j = 0; j < positions; j++) {
                const uint32_t *key = qkv + (long)j * stride + (heads + head) * words;
                const uint32_t *value = key + heads * words;
                int32_t pairs = 0;
                for (k = 0; k < words; k++)
                    pairs += @P@_popcount(q[k] & key[k]);
                if (pairs)
                    for (k = 0; k < words; k++) {
                        uint32_t word = value[k];
                        while (word) {
                            product[32 * k + @P@_lowest(word)] += pairs;
                            word &= word - 1;
                        }
                    }
            }
            for (c = 0; c < channels; c++) {
                int32_t n = product[c] > 8 ? 8 : product[c];
                const int place = head * channels + c;
                uint32_t spike;
                if (potentials) {
                    int32_t h = (*potentials + (n << @STEPS@)) >> 1; /* never negative */
                    spike = h >= (int32_t)4 << @STEPS@;
                    *potentials++ = (@STATE@)(spike ? 0 : h);
                } else {
                    spike = n >= 8;
                }
                @P@_check(check, spike);
                bits[place / 32] |= spike << (place & 31);
            }
        }
    }
}

/* kernel mask: k of the heads in which q has a spike; needs lowest check */
static void @P@_mask(const uint32_t *qk, uint32_t *bits, int positions, int heads, int channels, int check)
{
    const int words = (channels + 31) / 32, width = heads * channels;
    int i, head, k;
    for (i = 0; i < positions; i++, qk += 2 * heads * words, bits += (width + 31) / 32) {
        memset(bits, 0, (size_t)((width + 31) / 32) * sizeof *bits);
        for (head = 0; head < heads; head++) {
            const uint32_t *q = qk + head * words, *key = qk + (heads + head) * words;
            uint32_t any = 0;
            for (k = 0; k < words; k++)
                any |= q[k];
            @P@_check(check, any != 0);
            for (k = 0; any && k < words; k++) {
                uint32_t word = key[k];
                while (word) {
                    const int place = head * channels + 32 * k + @P@_lowest(word);
                    bits[place / 32] |= (uint32_t)1 << (place & 31);
                    word &= word - 1;
                }
            }
        }
    }
}

/* kernel sum_bits: spikes of all positions, by channel; needs lowest */
static void @P@_sum_bits(const uint32_t *bits, int32_t *sums, int positions, int channels)
{
    int position, base;
    for (position = 0; position < positions; position++)
        for (base = 0; base < channels; base += 32) {
            uint32_t word = *bits++;
            while (word) {
                sums[base + @P@_lowest(word)]++;
                word &= word - 1;
            }
        }
}

/* kernel sum_counts: counts of all positions, by channel */
static void @P@_sum_counts(const uint8_t *counts, int32_t *sums, int positions, int channels)
{
    int position, i;
    for (position = 0; position < positions; position++)
        for (i = 0; i < channels; i++)
            sums[i] += *counts++;
}
